"""What a search needs to know of what it searches: how to make a training of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ecograph.cost.footprint import Footprint
from ecograph.loop import Callback, TrainingLoop
from ecograph.sweeps.space import Space, Values


@dataclass(frozen=True)
class Training:
    """A training that is about to begin.

    Attributes:
        loop: which stops at the target.
        arguments: of ``loop.run``: model, optimizer, loss, loaders, schedule.
    """

    loop: TrainingLoop
    arguments: Sequence[Any]


class Problem(Protocol):
    """A family of trainings: a job that varies, or functions that make models and loaders."""

    @property
    def space(self) -> Space:
        """What may vary."""

    @property
    def start(self) -> Values | None:
        """The setting that is tried first, to compare with; None where there is none."""

    @property
    def batch_name(self) -> str:
        """The parameter that is the batch size."""

    @property
    def lr_name(self) -> str:
        """The parameter that is the learning rate."""

    def training(self, values: Values, *, seed: int, stop: str | None, callbacks: Sequence[Callback]) -> Training:
        """Makes a training.

        Raises:
            ValueError: for a setting that cannot be trained.
        """

    def definition(self) -> dict[str, Any]:
        """Returns what makes it this problem, as JSON types: workers on one storage must agree on it."""

    def footprint(self, joules: float) -> Footprint:
        """Returns what energy comes to in CO2 and money."""
