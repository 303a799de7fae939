"""Several targets at once: a model of its own for each task, or one model whose trunk they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ecograph.loop import Callback, EpochRecord
from ecograph.loop.batches import batch_size
from ecograph.loop.measure import accuracy
from ecograph.sweeps.attempt import REACHED, Stopped
from ecograph.sweeps.functions import KNOWN, Functions, Judge, given, parameters
from ecograph.sweeps.space import Values
from ecograph.sweeps.target import Target

SEPARATE, SHARED = "separate", "shared"
#: The dimension that several targets add to a space.
TRUNK: dict[str, list[str]] = {"trunk": [SEPARATE, SHARED]}


@dataclass(frozen=True)
class Targets(Target):
    """Several targets, which are reached when all of them are.

    A search sees their margin: by how much the task that is furthest from its target is beyond it, as a share of the
    target's number.

    Attributes:
        each: task -> its target.
    """

    each: Mapping[str, Target] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Targets:
        """Returns the targets that texts say.

        Raises:
            ValueError: for fewer than two, for a name that is no task's, and as :meth:`Target.parse`.
        """
        if len(texts) < 2:
            raise ValueError(f"target={dict(texts)!r}: give two tasks or more, or the text of one target")
        for name in texts:
            if not isinstance(name, str) or not name.isidentifier():
                raise ValueError(f"target: {name!r} is no name for a task: give one such as 'digit'")
        return cls("val_margin", ">=", 0.0, {name: Target.parse(text) for name, text in texts.items()})

    def margin(self, values: Mapping[str, float]) -> float:
        """Returns the least margin of all; below 0 where a target is not reached."""
        shares = [-each.shortfall(values[name]) / (abs(each.number) or 1.0) for name, each in self.each.items()]
        least = min(shares)
        missed = any(not each.reached(values[name]) for name, each in self.each.items())
        return min(least, -1e-9) if missed else max(least, 0.0)  # a target of "> 1" is not reached by 1

    def __str__(self) -> str:
        """Returns them as they are written."""
        return " and ".join(f"{name}: {each}" for name, each in self.each.items())


class Apart(nn.Module):
    """A model for each task, side by side. One that has reached its target rests: it costs nothing from then on.

    Args:
        models: task -> what returns a dict with this task's output.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)
        self.resting: set[str] = set()

    def forward(self, *inputs: Any) -> dict[str, Any]:
        """Returns the outputs of those that do not rest, by task."""
        outputs: dict[str, Any] = {}
        for name, model in self.models.items():
            if name not in self.resting:
                outputs[name] = model(*inputs)[name]
        return outputs


class Tally(Callback):
    """Follows every task through validation, exactly: over samples, and not over batches.

    Args:
        targets: of the tasks.
        losses: task -> function of (outputs, targets).
        metrics: task -> the same, or ``"accuracy"``.
        apart: models that rest once their target is reached; None for one that all share.
    """

    def __init__(
        self, targets: Targets, losses: Mapping[str, Any], metrics: Mapping[str, Any], apart: Apart | None
    ) -> None:
        self.values = dict.fromkeys(targets.each, math.nan)
        self._targets = targets
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, target in targets.each.items():
            metric = accuracy if metrics[name] == "accuracy" else metrics[name]
            known = {"val_loss": losses[name], f"val_{getattr(metric, '__name__', 'metric')}": metric}
            if target.name not in known:
                raise ValueError(f"target of {name!r}: there is no {target.name}; there are {', '.join(known)}")
            self._functions[name] = known[target.name]
        self._apart = apart
        self._sums: dict[str, list[float]] = {}

    def margin(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Tensor:
        """Takes a batch: what the loop calls as its metric. Returns the margin on this batch, of those in it."""
        values = {name: float(self._functions[name](output, targets[name])) for name, output in outputs.items()}
        if not torch.is_grad_enabled():  # validation
            for name, value in values.items():
                count = batch_size(targets[name])
                total = self._sums.setdefault(name, [0.0, 0])
                total[0] += count * value
                total[1] += count
        return torch.tensor(self._targets.margin(self.values | values))

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        """Notes how far every task is, and has those rest that are there."""
        for name, (total, count) in self._sums.items():
            self.values[name] = total / count
        self._sums.clear()
        for name, target in self._targets.each.items():
            record.values[f"val_{name}_{target.name.partition('_')[2]}"] = self.values[name]
            if self._apart is not None and target.reached(self.values[name]):
                self._apart.resting.add(name)
        record.values["val_margin"] = self._targets.margin(self.values)

    @property
    def reached(self) -> bool:
        """Whether all targets are."""
        return all(target.reached(self.values[name]) for name, target in self._targets.each.items())


class End(Callback):
    """Ends the training when all targets are reached; the last of the callbacks.

    Args:
        tally: that knows.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        """Looks."""
        if self._tally.reached:
            raise Stopped(REACHED)


@dataclass(frozen=True)
class MultiTask(Functions):
    """A problem of several tasks.

    ``make_model`` has a parameter ``tasks``: with the names of some tasks it returns a model that returns a dict with
    an output for each of them. Batches are ``(inputs, targets)``, the targets a dict by task. Loss and metric are one
    for all tasks, or a dict by task; what is trained is the sum of the losses.

    Attributes:
        targets: of the tasks.
    """

    targets: Targets = field(default_factory=lambda: Targets("val_margin", ">=", 0.0))

    known: ClassVar[Mapping[str, Any]] = {**KNOWN, "trunk": SEPARATE}

    def __post_init__(self) -> None:
        """Checks that a model can be made for some tasks, and that each task has a loss and a metric."""
        super().__post_init__()
        if "tasks" not in parameters(self.make_model):
            raise ValueError(
                "several targets need a make_model that has a parameter 'tasks': given the names of some tasks, it "
                "returns a model that returns a dict with an output for each"
            )
        self._tally(None)

    def model(self, found: Values) -> nn.Module:
        """Makes the model of a setting, or the models side by side."""
        names = tuple(self.targets.each)
        if found["trunk"] == SHARED:
            return self.make_model(**given(self.make_model, {**found, "tasks": names}))
        if found["trunk"] != SEPARATE:
            raise ValueError(f"trunk {found['trunk']!r}: give {SEPARATE!r} or {SHARED!r}")
        return Apart({name: self.make_model(**given(self.make_model, {**found, "tasks": (name,)})) for name in names})

    def judge(self, model: nn.Module, stop: str | None, callbacks: Sequence[Callback]) -> Judge:
        """Sums the losses, and has every task followed; the loop itself knows no stop of several targets."""
        tally = self._tally(model if isinstance(model, Apart) else None)
        losses = self._by_task(self.loss_fn, "loss_fn")

        def loss(outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:
            return sum(losses[name](output, targets[name]) for name, output in outputs.items())

        def margin(outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Tensor:
            return tally.margin(outputs, targets)

        ends = [] if stop is None else [End(tally)]
        return Judge(loss, margin, None, [tally, *callbacks, *ends])

    def definition(self) -> dict[str, Any]:
        """See ``Problem``."""
        return {**super().definition(), "targets": str(self.targets)}

    def _tally(self, apart: Apart | None) -> Tally:
        return Tally(self.targets, self._by_task(self.loss_fn, "loss_fn"), self._by_task(self.metric, "metric"), apart)

    def _by_task(self, given: Any, says: str) -> Mapping[str, Any]:
        if not isinstance(given, Mapping):
            return dict.fromkeys(self.targets.each, given)
        missing = [name for name in self.targets.each if name not in given]
        if missing:
            raise ValueError(f"{says} has nothing for the task {missing[0]!r}: give one for each, or one for all")
        return given
