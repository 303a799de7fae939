"""What happens at the start of each epoch, and the state that goes with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ecograph.errors import NoEffectWarning
from ecograph.passes.gradsamp.config import Options
from ecograph.passes.gradsamp.parameters import snapshot, trainable
from ecograph.passes.gradsamp.plan import is_skipped, skipped_epochs
from ecograph.passes.gradsamp.sample import UNCHANGED, sample


class EpochSampler:
    """Decides at the start of each epoch whether it is skipped, and moves the weights if so.

    Its state is the epoch that was begun last and, in the epoch before a skipped one, what the weights were at its
    start.

    Args:
        options: which epochs are skipped, and how the weights move then.
        epochs: how many epochs there will be, for ``cooldown``.

    Attributes:
        options: the same.
        epochs: the same.
        left: the parameters that the last skip left as they are, by name, with the reasons.

    Raises:
        ValueError: where ``epochs`` is missing, and ``cooldown`` needs it.

    Warns:
        NoEffectWarning: where none of the epochs will be skipped.
    """

    def __init__(self, options: Options, *, epochs: int | None = None) -> None:
        if epochs is None and options.cooldown:
            raise ValueError(
                f"cooldown={options.cooldown} counts from the end of training: say how many epochs there are, "
                f"EpochSampler(GradSamp(..., cooldown={options.cooldown}), epochs=30)"
            )
        if epochs is not None:
            warn_of_no_effect(options, epochs, stacklevel=3)
        self.options = options
        self.epochs = epochs
        self.left: dict[str, str] = {}
        self._epoch = -1
        self._snapshot: dict[str, Tensor] | None = None
        self._told = False

    def trains(self, epoch: int) -> bool:
        """Returns whether an epoch, counted from 0, is trained and not skipped."""
        return not is_skipped(self.options, epoch, self.epochs)

    def on_epoch_start(self, model: nn.Module, epoch: int | None = None) -> bool:
        """Begins an epoch.

        Args:
            model: that is trained.
            epoch: which one, counted from 0. None: the one after the last. Give it where training is resumed in the
                middle of an epoch: to begin an epoch again changes nothing.

        Returns:
            True if the epoch is skipped: the weights have moved, do not train them.

        Raises:
            ValueError: where an epoch is skipped, and it is not known what the weights were an epoch ago.

        Warns:
            UserWarning: once, of parameters that stay as they are for an unusual reason, such as a change that is not
                finite. ``left`` has them all.
            NoEffectWarning: where no parameter has changed at all.
        """
        if epoch is None:
            epoch = self._epoch + 1
        skipped = not self.trains(epoch)
        if epoch == self._epoch:
            return skipped
        kept: dict[str, Tensor] | None = None
        if self.options.mode == "none":
            pass
        elif skipped:
            self._move(model, epoch)
        elif not self.trains(epoch + 1):
            kept = snapshot(trainable(model), self.options.snapshot)
        self._epoch, self._snapshot = epoch, kept
        return skipped

    def _move(self, model: nn.Module, epoch: int) -> None:
        if self._epoch != epoch - 1 or self._snapshot is None:
            raise ValueError(
                f"epoch {epoch + 1} is skipped, and where the weights were an epoch ago is not known: begin every "
                "epoch with on_epoch_start; and to resume a training, load the state_dict() that belongs to it"
            )
        parameters = trainable(model)
        self.left = sample(parameters, self._snapshot, self.options, epoch)
        # A few that did not change are nothing unusual: a batch norm cancels the bias before it.
        odd = {name: reason for name, reason in self.left.items() if reason != UNCHANGED}
        if self._told or not (odd or len(self.left) == len(parameters)):
            return
        self._told = True
        if odd:
            some = ", ".join(f"{name} ({reason})" for name, reason in list(odd.items())[:3])
            more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
            warnings.warn(f"GradSamp leaves parameters as they are: {some}{more}", stacklevel=3)
        else:
            message = f"GradSamp moves nothing: no parameter changed in epoch {epoch}; is the learning rate 0?"
            warnings.warn(message, NoEffectWarning, stacklevel=3)

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch that was begun last, and the weights at its start where the next one needs them."""
        return {"epoch": self._epoch, "snapshot": None if self._snapshot is None else dict(self._snapshot)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken.

        Raises:
            ValueError: for a state that is not an EpochSampler's.
        """
        if missing := {"epoch", "snapshot"} - set(state):
            raise ValueError(f"not the state of a GradSamp: {', '.join(sorted(missing))} missing")
        self._epoch = int(state["epoch"])
        self._snapshot = None if state["snapshot"] is None else dict(state["snapshot"])


def warn_of_no_effect(options: Options, epochs: int, *, stacklevel: int) -> None:
    """Warns where none of ``epochs`` is skipped; ``stacklevel`` as for ``warnings.warn``."""
    if not skipped_epochs(options, epochs):
        plan, fix = f"every={options.every}", "lower every"
        if options.every is None:
            plan, fix = f"probability={options.probability}", "raise probability"
        warnings.warn(
            f"GradSamp with {plan}, warmup={options.warmup} and cooldown={options.cooldown} skips none of the {epochs} "
            f"epochs: {fix}, warm up and cool down for fewer epochs, or train for more",
            NoEffectWarning,
            stacklevel=stacklevel,
        )
