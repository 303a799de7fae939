"""Optimizers by name: torch's own, and the user's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ecograph.tools import own
from ecograph.tools.errors import UserError
from ecograph.tools.training.arguments import call_with

#: name in lower case -> class. LBFGS computes the loss several times a step, which the loop does not do.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): each
    for name, each in vars(torch.optim).items()
    if isinstance(each, type) and issubclass(each, Optimizer) and name not in ("Optimizer", "LBFGS")
}


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], options: Mapping[str, Any]) -> Optimizer:
    """Returns an optimizer.

    Args:
        name: of a class of torch.optim, in any case; or the user's, as ``file.py:name``, which is given the parameters.
        parameters: to train.
        options: of the class, by its own names.

    Raises:
        UserError: for a name, an option or a value that it does not have.
    """
    says = f"optimizer {name!r}"
    make: Any = OPTIMIZERS.get(name.lower())
    if make is None and ":" in name:
        make = own.load(name, says=says)
    if make is None:
        close = get_close_matches(name.lower(), OPTIMIZERS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"{says}: give one of {', '.join(sorted(OPTIMIZERS))}, {own.FORMS}{hint}")
    if not callable(make):
        raise UserError(f"{says} is a {type(make).__name__}, not a class or function that is given the parameters")
    made = call_with(make, list(parameters), options=options, says=says)
    if not isinstance(made, Optimizer):
        raise UserError(f"{says} returned a {type(made).__name__}, not a torch.optim.Optimizer")
    return made
