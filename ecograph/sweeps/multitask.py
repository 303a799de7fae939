"""Several targets at once: a model of its own for each task, or one model whose trunk they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from ecograph.loop import Callback
from ecograph.sweeps.apart import Apart
from ecograph.sweeps.functions import KNOWN, Functions, Judge, given, parameters
from ecograph.sweeps.space import Values
from ecograph.sweeps.tally import Tally, Targets

SEPARATE, SHARED = "separate", "shared"
#: The dimension that several targets add to a space.
TRUNK: dict[str, list[str]] = {"trunk": [SEPARATE, SHARED]}


def model_of(tasks: tuple[str, ...], trunk: str, make: Callable[[tuple[str, ...]], nn.Module]) -> nn.Module:
    """Returns a model for all tasks, or one for each, side by side.

    Args:
        tasks: their names.
        trunk: ``"shared"`` or ``"separate"``.
        make: returns a model for some tasks.

    Raises:
        ValueError: for any other trunk.
    """
    if trunk not in (SEPARATE, SHARED):
        raise ValueError(f"trunk {trunk!r}: give {SEPARATE!r} or {SHARED!r}")
    return make(tasks) if trunk == SHARED else Apart({name: make((name,)) for name in tasks})


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
        self._tally()

    def model(self, found: Values) -> nn.Module:
        """Makes the model of a setting, or the models side by side."""

        def make(tasks: tuple[str, ...]) -> nn.Module:
            return self.make_model(**given(self.make_model, {**found, "tasks": tasks}))

        return model_of(tuple(self.targets.each), found["trunk"], make)

    def judge(self, model: nn.Module, stop: str | None, callbacks: Sequence[Callback]) -> Judge:
        """Sums the losses, and has every task followed."""
        tally = self._tally()
        tally.follow(model)
        return tally.judge(stop, callbacks)

    def definition(self) -> dict[str, Any]:
        """See ``Problem``."""
        return {**super().definition(), "targets": str(self.targets)}

    def _tally(self) -> Tally:
        return Tally(self.targets, self.loss_fn, self.metric)
