"""Losses by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ecograph.tools import own
from ecograph.tools.errors import UserError

Loss = Callable[..., Any]


def token_cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Mean cross-entropy of scores ``(N, ..., classes)``, or outputs that have such ``logits``, for ``(N, ...)``."""
    scores: Tensor = getattr(outputs, "logits", outputs)
    return F.cross_entropy(scores.flatten(0, -2), targets.flatten())


LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "token_cross_entropy": token_cross_entropy,
    "bce": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
    "nll": F.nll_loss,
}

#: For models that return their own loss.
OF_THE_MODEL = "model"

FORMS = f"{', '.join(LOSSES)}, {OF_THE_MODEL} (where a batch is a dict and the model returns its own), {own.FORMS}"


def find_loss(name: str) -> Loss | None:
    """Returns the loss called ``name``, a function of (outputs, targets); None for the model's own.

    Raises:
        UserError: where there is none.
    """
    if name == OF_THE_MODEL:
        return None
    if name in LOSSES:
        return LOSSES[name]
    if ":" in name:
        found: Loss = own.load(name, says=f"loss {name!r}")
        if isinstance(found, type):  # a torch.nn loss, or a class like one
            found = own.call(name, found, says=f"loss {name!r}", gives="the loss function")
        if not callable(found):
            raise UserError(f"loss {name!r} is a {type(found).__name__}, not a function of (outputs, targets)")
        return found
    close = get_close_matches(name, [*LOSSES, OF_THE_MODEL], 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"loss {name!r}: give one of {FORMS}{hint}")
