"""Several targets at once, and how far the tasks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ecograph.loop import Callback, EpochRecord
from ecograph.loop.batches import batch_size
from ecograph.loop.measure import accuracy
from ecograph.sweeps.apart import Apart
from ecograph.sweeps.attempt import REACHED, Stopped
from ecograph.sweeps.functions import Judge
from ecograph.sweeps.target import Target


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


class Tally(Callback):
    """Follows every task through validation, exactly: over samples, and not over batches.

    Args:
        targets: of the tasks.
        losses: function of (outputs, targets), or one for each task.
        metrics: likewise, or ``"accuracy"``, or None.

    Attributes:
        apart: models that rest once their target is reached; None for one that all share.
    """

    apart: Apart | None = None

    def __init__(self, targets: Targets, losses: Any, metrics: Any) -> None:
        losses, metrics = by_task(losses, targets, "loss_fn"), by_task(metrics, targets, "metric")
        self.losses = losses
        self.values = dict.fromkeys(targets.each, math.nan)
        self._targets = targets
        self._functions: dict[str, Callable[..., Any]] = {}
        for name, target in targets.each.items():
            metric = accuracy if metrics[name] == "accuracy" else metrics[name]
            known = {"val_loss": losses[name]}
            if metric is not None:
                known[f"val_{getattr(metric, '__name__', 'metric')}"] = metric
            if target.name not in known:
                raise ValueError(f"target of {name!r}: there is no {target.name}; there are {', '.join(known)}")
            self._functions[name] = known[target.name]
        self._sums: dict[str, list[float]] = {}

    def judge(self, stop: str | None, callbacks: Sequence[Callback]) -> Judge:
        """Returns what a loop needs: the sum of the losses, and that every task is followed.

        The loop itself knows no stop of several targets.

        Args:
            stop: None where the training is not to end before its last epoch.
            callbacks: others.
        """
        return Judge(self.loss, self.margin, None, [self, *callbacks, *([] if stop is None else [End(self)])])

    def follow(self, model: nn.Module) -> None:
        """Has models that are side by side rest when they are there."""
        self.apart = model if isinstance(model, Apart) else None

    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Any:
        """Returns the sum of the losses of the tasks that have outputs."""
        return sum(self.losses[name](output, targets[name]) for name, output in outputs.items())

    def margin(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> Tensor:
        """Takes a batch: what the loop calls as its metric. Returns the margin on this batch, of those in it."""
        validates = not torch.is_grad_enabled()
        with torch.no_grad():
            values = {name: float(self._functions[name](output, targets[name])) for name, output in outputs.items()}
        if validates:
            for name, value in values.items():
                count = batch_size(targets[name])
                total = self._sums.setdefault(name, [0.0, 0])
                total[0] += count * value
                total[1] += count
        return torch.tensor(self._targets.margin(self.values | values))

    def on_epoch_start(self, epoch: int, model: nn.Module) -> None:
        """Forgets what a trial before the training may have left."""
        self._sums.clear()

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        """Notes how far every task is, and has those rest that are there."""
        for name, (total, count) in self._sums.items():
            self.values[name] = total / count
        self._sums.clear()
        for name, target in self._targets.each.items():
            record.values[f"val_{name}_{target.name.partition('_')[2]}"] = self.values[name]
            if self.apart is not None and target.reached(self.values[name]):
                self.apart.resting.add(name)
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


def by_task(given: Any, targets: Targets, says: str) -> Mapping[str, Any]:
    """Returns what is given for each task, or one for all, by task.

    Raises:
        ValueError: where a task has none.
    """
    if not isinstance(given, Mapping):
        return dict.fromkeys(targets.each, given)
    missing = [name for name in targets.each if name not in given]
    if missing:
        raise ValueError(f"{says} has nothing for the task {missing[0]!r}: give one for each, or one for all")
    return given
