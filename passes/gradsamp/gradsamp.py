"""The pass: how skipped epochs look in a training loop."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from ecograph.passes.gradsamp.config import Options
from ecograph.passes.gradsamp.plan import skipped_epochs
from ecograph.passes.gradsamp.sampler import EpochSampler, warn_of_no_effect

if TYPE_CHECKING:
    from ecograph.loop import Program

_SAYS = {
    "gaussian": "In skipped epochs the weights move by noise like their last change.",
    "extrapolate": "In skipped epochs the weights repeat their last change.",
    "none": "In skipped epochs the weights stay as they are.",
}

_EPOCH = """
    if gradsamp.on_epoch_start(model, epoch):
        # Skipped: no data is read.
        history.note("skipped by GradSamp")
        slot("skipped_epoch")
    else:
        ...
"""

#: The same, where a statement after the epoch asks for it.
_NAMED_EPOCH = """
    trained = not gradsamp.on_epoch_start(model, epoch)
    if trained:
        ...
    else:
        # Skipped: no data is read.
        history.note("skipped by GradSamp")
        slot("skipped_epoch")
"""


class GradSamp(Options):
    """Skip whole epochs: draw the weights' change from a Gaussian that is fitted to their last one.

    With ``e`` the change of a parameter over the epoch before, a skipped epoch adds to each of its elements a number
    from ``N(mean(e), std(e)**2)`` (population standard deviation). Nothing else changes: optimizer state, buffers and
    frozen parameters are as they were, and the training data is not touched.

    In a loop of one's own::

        gradsamp = GradSamp(every=4)
        for epoch in range(30):
            if gradsamp.on_epoch_start(model):
                continue

    With ``cooldown``, or for several trainings, make samplers of it: ``EpochSampler(gradsamp, epochs=30)``.

    Args:
        every: skip each ``every``-th epoch after the warm-up, 3 or more. 4, if nothing is said.
        probability: in place of ``every``: skip an epoch with this probability, from above 0 to 1, where neither of the
            two before was skipped. A share ``probability / (1 + 2 * probability)`` of the epochs is skipped.
        granularity: what has a mean and a standard deviation of its own: each ``"tensor"``, each ``"channel"`` (index
            of a tensor's first dimension), or the ``"model"``. ``"element"``: every element's mean is its own last
            change, and the standard deviation is the tensor's. For ``mode="gaussian"``.
        mode: ``"gaussian"``; or a control: ``"extrapolate"`` repeats the last change without noise, and ``"none"``
            skips the epoch and leaves the weights as they are.
        warmup: epochs at the start that are trained.
        cooldown: epochs at the end that are trained.
        advance_lr: learning-rate schedules go on in skipped epochs.
        snapshot: where to keep the copy of the weights that a skip needs, for an epoch: on their ``"device"``, or on
            the ``"cpu"``.
        seed: of the noise, and of the plan with ``probability``.

    Raises:
        ValueError: for an option out of range, with the fix.

    Source: GradSamp, arXiv 2406.07332. The README beside this file says what is the paper's and what is ours.
    """

    def on_epoch_start(self, model: nn.Module, epoch: int | None = None) -> bool:
        """Begins an epoch of a loop of one's own; see :meth:`EpochSampler.on_epoch_start`."""
        return self._own.on_epoch_start(model, epoch)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the training that :meth:`on_epoch_start` was called in."""
        return self._own.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken."""
        self._own.load_state_dict(state)

    def skipped_epochs(self, epochs: int) -> list[int]:
        """Returns the epochs that are skipped among ``epochs``, counted from 0."""
        return skipped_epochs(self, epochs)

    def sampler(self, epochs: int) -> EpochSampler:
        """Returns what begins the epochs of one training."""
        return EpochSampler(self, epochs=epochs)

    @cached_property
    def _own(self) -> EpochSampler:
        return EpochSampler(self)

    def insert(self, program: Program) -> None:
        """Adds the skipped epochs to a generated training loop."""
        from ecograph.loop import advance_rates, lr_step_if

        warn_of_no_effect(self, program.epochs, stacklevel=6)
        program.insert(
            "before_training",
            f"""
            from ecograph.passes.gradsamp import EpochSampler

            # {_SAYS[self.mode]}
            gradsamp = EpochSampler(PASS, epochs=epochs)
            """,
            PASS=self,
        )
        program.keep("gradsamp")
        waits = not self.advance_lr and program.lr_step != "step"
        program.wrap("train_epoch", _NAMED_EPOCH if waits else _EPOCH)
        with program.made_by(self.name):
            if program.uses("progress"):
                program.insert("skipped_epoch", "progress.skip(epoch)")
            advance_rates(program)
            if waits:
                lr_step_if(program, "trained")
            elif program.lr_step == "step" and self.advance_lr:
                _advance_lr_by_steps(program)


def _advance_lr_by_steps(program: Program) -> None:
    """Has a schedule by the step take those that a skipped epoch would have taken."""
    # Counted at the start, so that a loader without a length is found out there and not at the first skipped epoch.
    program.insert("before_training", "steps_per_epoch = STEPS", STEPS=program.steps_per_epoch)
    program.insert(
        "skipped_epoch",
        """
        if lr_scheduler is not None:
            for _ in range(steps_per_epoch):
                lr_scheduler.step()
        """,
    )
