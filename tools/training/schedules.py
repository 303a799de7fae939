"""Learning-rate schedules by name: torch's own, stretched over the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ecograph.tools.errors import UserError
from ecograph.tools.training.arguments import call_with

NONE = "none"

LrStep = Literal["epoch", "step", "val_loss"]


@dataclass(frozen=True)
class Schedule:
    """A schedule of torch.

    Attributes:
        make: its class.
        says: what it does, in words.
        fills: from the optimizer and how often it will advance to the options that span the training; None where it has
            no end.
        lr_step: when it advances in a job that does not say so.
    """

    make: type[LRScheduler]
    says: str
    fills: Callable[[Optimizer, int], dict[str, Any]] | None = None
    lr_step: LrStep = "step"


SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule(
        lr_scheduler.CosineAnnealingLR, "down along half a cosine, to 0", lambda optimizer, total: {"T_max": total}
    ),
    "onecycle": Schedule(
        lr_scheduler.OneCycleLR,
        "up to the learning rate, and down to about 0",
        lambda optimizer, total: {"max_lr": [group["lr"] for group in optimizer.param_groups], "total_steps": total},
    ),
    "linear": Schedule(
        lr_scheduler.LinearLR,
        "down along a line, to 0",
        lambda optimizer, total: {"start_factor": 1.0, "end_factor": 0.0, "total_iters": total},
    ),
    "step": Schedule(lr_scheduler.StepLR, "times gamma, every step_size epochs", lr_step="epoch"),
    "multistep": Schedule(lr_scheduler.MultiStepLR, "times gamma, after each of the milestones", lr_step="epoch"),
    "exponential": Schedule(lr_scheduler.ExponentialLR, "times gamma, every epoch", lr_step="epoch"),
    "plateau": Schedule(
        lr_scheduler.ReduceLROnPlateau, "times factor, when the validation loss stays", lr_step="val_loss"
    ),
}

NAMES = (NONE, *SCHEDULES)

#: Those that need to be told nothing but their name.
WITHOUT_OPTIONS = (NONE, "cosine", "onecycle", "linear", "plateau")


def default_lr_step(name: str) -> LrStep:
    """Returns when the schedule called ``name`` advances, where nobody says."""
    found = SCHEDULES.get(name)
    return "epoch" if found is None else found.lr_step


def make_schedule(
    name: str,
    optimizer: Optimizer,
    options: Mapping[str, Any],
    *,
    lr_step: LrStep | None,
    epochs: int | None,
    steps_per_epoch: int | None,
) -> LRScheduler | None:
    """Returns a schedule that spans the training.

    Args:
        name: in ``SCHEDULES``, or ``"none"``.
        optimizer: whose learning rate it sets.
        options: of its class, by its own names.
        lr_step: when the loop advances it.
        epochs: of the loop; None where that is not known.
        steps_per_epoch: optimizer steps; None where the data has no length.

    Raises:
        UserError: for a name, an option or a value that there is not, and for a loop that it does not fit.
    """
    says = f"schedule {name!r}"
    if name == NONE:
        if options:
            raise UserError(f"{says} has no option {next(iter(options))!r}: give a schedule, one of {', '.join(NAMES)}")
        return None
    if name not in SCHEDULES:
        close = get_close_matches(name, NAMES, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{says}: give one of {', '.join(NAMES)}{hint}")
    found = SCHEDULES[name]
    if (name == "plateau") != (lr_step == "val_loss"):
        advances = {"val_loss": "by the validation loss", None: "at a time of its own"}.get(lr_step, f"each {lr_step}")
        fix = 'lr_step="val_loss"' if name == "plateau" else 'lr_step="step" or "epoch"'
        raise UserError(f"{says} does not fit a loop that advances it {advances}: it needs {fix}")
    fills = {}
    if found.fills is not None:
        total = _total(says, lr_step, epochs, steps_per_epoch)
        fills = {key: value for key, value in found.fills(optimizer, total).items() if key not in options}
    made: LRScheduler = call_with(found.make, optimizer, options={**fills, **options}, says=says, ours=("last_epoch",))
    return made


def _total(says: str, lr_step: LrStep | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    """Returns how often the loop advances the schedule."""
    if epochs is None:
        raise UserError(f"{says} spans the training, and the loop does not say `epochs = NUMBER`: import its train()")
    if lr_step == "epoch":
        return epochs
    if steps_per_epoch is None:
        raise UserError(f'{says} spans the training, and the data has no length: give lr_step="epoch"')
    return epochs * steps_per_epoch
