"""One call to time, and the numbers that it is made on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.steps.op import Grad, Phase

#: Makes the operands of a call, anew each time, so that they are not in a cache from the call before.
Make = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Workload:
    """One call to time.

    Attributes:
        label: for the progress bar.
        run: the call, of the operands.
        make: makes the operands.
        phase: ``"forward"``: results are kept for the backward, so each is new memory. ``"backward"``: they are freed
            soon, and their memory is used again. ``"optimizer"``: the same, and the call comes after one like it.
        grad: which gradient a product computes, or "".
        warm: which operand the operation before has just written, as in a step; None where all come from memory.
    """

    label: str
    run: Callable[..., Any]
    make: Make
    phase: Phase
    grad: Grad = ""
    warm: int | None = 0


_NOISE = torch.Generator().manual_seed(0)
_noise: dict[torch.dtype, Tensor] = {}


def noise(*shape: int, dtype: torch.dtype) -> Tensor:
    """Returns random numbers, most of them copied from the last ones: to draw them takes longer than to use them."""
    count = math.prod(shape)
    known = _noise.get(dtype)
    if known is None or known.numel() < min(count, 2**22):
        known = _noise[dtype] = torch.randn(2**22, generator=_NOISE).to(dtype)
    if count <= known.numel():
        return known[:count].view(shape).clone()
    return known.repeat(-(-count // known.numel()))[:count].view(shape)


#: What a call is called, the call, what makes its operands, and when in a step it occurs.
Call = tuple[str, Callable[..., Any], Make, Phase]
