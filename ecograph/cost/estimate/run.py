"""What a whole planned training will cost: its epochs and steps, less those that are skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecograph.cost.estimate.result import Amount, Amounts, Estimate
from ecograph.cost.footprint import Footprint, footprint
from ecograph.printed import Printed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True, repr=False)
class PlannedRun(Printed):
    """A training before it is run; prints as a table.

    Forward, backward and the optimizer's steps are in the figures. To read data, to evaluate and to write checkpoints
    is not.

    Attributes:
        estimate: of a step.
        epochs: planned.
        skipped: of them, those that are not trained.
        batches: in an epoch.
        steps: of the optimizer in an epoch.
        grid: grams of CO2 per kWh; None for the average of the world.
        price: of a kWh; None for no price.
        currency: of the price.
    """

    estimate: Estimate
    epochs: int
    skipped: int
    batches: int
    steps: int
    grid: float | None = None
    price: float | None = None
    currency: str = ""

    @property
    def trained(self) -> int:
        """Epochs that are trained."""
        return self.epochs - self.skipped

    @property
    def epoch_before(self) -> Amount:
        """Cost of an epoch of the plain model."""
        return self._epoch(self.estimate.before)

    @property
    def epoch_after(self) -> Amount:
        """Cost of a trained epoch, on average over the schedule of the passes."""
        return self._epoch(self.estimate.after)

    @property
    def before(self) -> Amount:
        """Cost of all epochs of the plain model."""
        return self.epoch_before * self.epochs

    @property
    def after(self) -> Amount:
        """Cost of the training as it is planned, with all passes."""
        return self.epoch_after * self.trained

    @property
    def dense_epochs(self) -> float:
        """How many epochs of the plain model take as long as the planned training: what it has to be better than."""
        seconds = self.epoch_before.seconds
        return self.after.seconds / seconds if seconds else 0.0

    @property
    def footprint_before(self) -> Footprint:
        """What the energy of the plain training comes to."""
        return self._footprint(self.before)

    @property
    def footprint_after(self) -> Footprint:
        """What the energy of the planned training comes to."""
        return self._footprint(self.after)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return {
            "epochs": self.epochs,
            "skipped_epochs": self.skipped,
            "trained_epochs": self.trained,
            "batches_per_epoch": self.batches,
            "steps_per_epoch": self.steps,
            "epoch_before": self.epoch_before.to_dict(),
            "epoch_after": self.epoch_after.to_dict(),
            "before": {**self.before.to_dict(), "footprint": self.footprint_before.to_dict()},
            "after": {**self.after.to_dict(), "footprint": self.footprint_after.to_dict()},
            "dense_epochs": self.dense_epochs,
            "source": self.estimate.source,
            "notes": list(self.estimate.notes),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the run as a table."""
        from ecograph.cost.estimate.run_table import render

        yield from render(self)

    def _epoch(self, phases: Amounts) -> Amount:
        times = {"optimizer": self.steps}
        return sum((amount * times.get(phase, self.batches) for phase, amount in phases.items()), Amount())

    def _footprint(self, amount: Amount) -> Footprint:
        return footprint(amount.joules, grid=self.grid, price=self.price, currency=self.currency)


def plan_run(
    estimate: Estimate,
    *,
    epochs: int,
    batches_per_epoch: int,
    accumulate: int = 1,
    skipped: int = 0,
    grid: float | None = None,
    price: float | None = None,
    currency: str = "",
) -> PlannedRun:
    """Returns what a whole training costs, of which a step was estimated.

    Args:
        estimate: of a step.
        epochs: planned.
        batches_per_epoch: usually ``len(loader)``.
        accumulate: batches per optimizer step.
        skipped: epochs that are not trained; see ``skipped_epochs``.
        grid: grams of CO2 per kWh where the machine stands; None for the average of the world.
        price: of one kWh; None for no price.
        currency: of the price, for the text.

    Raises:
        ValueError: for a number that makes no sense.

    Example:
        >>> loop = ecograph.TrainingLoop(epochs=30, passes=[ecograph.passes.GradSamp(every=4)])
        >>> step = estimate(model, x, optimizer=torch.optim.AdamW)
        >>> skipped = len(skipped_epochs(loop.passes, 30))
        >>> print(plan_run(step, epochs=30, batches_per_epoch=len(loader), skipped=skipped))
    """
    for name, value, least in (
        ("epochs", epochs, 1),
        ("batches_per_epoch", batches_per_epoch, 1),
        ("accumulate", accumulate, 1),
        ("skipped", skipped, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")
    if skipped > epochs:
        raise ValueError(f"skipped={skipped} are more than epochs={epochs}")
    footprint(0.0, grid=grid, price=price, currency=currency)  # says at once what is wrong with them
    steps = -(-batches_per_epoch // accumulate)
    return PlannedRun(estimate, epochs, skipped, batches_per_epoch, steps, grid, price, currency)


def skipped_epochs(passes: Iterable[Any], epochs: int) -> list[int]:
    """Returns the epochs, counted from 0, that passes of a training loop skip.

    A pass that skips some says so by a method ``skipped_epochs(epochs)``.
    """
    found: set[int] = set()
    for each in passes:
        tell = getattr(each, "skipped_epochs", None)
        if callable(tell):
            found.update(tell(epochs))
    return sorted(found)
