"""One skipped epoch: every parameter moves as it did over the epoch before, in distribution.

``theta[t] = theta[t-1] + N(mean, spread**2)``, with the mean and the spread of ``e = theta[t-1] - theta[t-2]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ecograph.passes.gradsamp import sharded
from ecograph.passes.gradsamp.config import Options
from ecograph.passes.gradsamp.noise import standard_normal
from ecograph.passes.gradsamp.statistics import joint_moments, moments

#: Why most of the parameters are left alone that are.
UNCHANGED = "did not change"


@torch.no_grad()
def sample(
    parameters: Mapping[str, nn.Parameter], before: Mapping[str, Tensor], options: Options, epoch: int
) -> dict[str, str]:
    """Moves the parameters in place.

    Args:
        parameters: as they are at the end of the last trained epoch, ``theta[t-1]``.
        before: as they were at its start, ``theta[t-2]``; on any device.
        options: of the pass; ``mode`` is not ``"none"``.
        epoch: that is skipped, ``t``.

    Returns:
        The parameters that were left as they are, with the reasons.
    """
    left = {name: reason for name, p in parameters.items() if (reason := _why_not(p, before.get(name)))}
    moving = {name: parameter for name, parameter in parameters.items() if name not in left}

    def changes() -> Iterator[Tensor]:
        for name, parameter in moving.items():
            yield _change(parameter, before[name])

    joint = joint_moments(changes) if options.granularity == "model" else None
    for (name, parameter), change in zip(moving.items(), changes(), strict=True):
        if options.mode == "gaussian":
            mean, spread = joint or moments(change, options.granularity)
            noise = standard_normal(change.shape, change.dtype, seed=options.seed, epoch=epoch, name=name)
            change = mean + spread * noise.to(change.device)
        target = _real(parameter)
        target.copy_(target.to(change.dtype) + sharded.like(target, change))
    return left


def _why_not(parameter: nn.Parameter, before: Tensor | None) -> str:
    if before is None or before.shape != parameter.shape:
        return "not there an epoch ago"
    size = float(_change(parameter, before).abs().sum())
    if not math.isfinite(size):
        return "its change is not finite"
    return "" if size else UNCHANGED


def _change(parameter: nn.Parameter, before: Tensor) -> Tensor:
    """Returns what a parameter has changed by, in float32 where its own type is less precise; not sharded."""
    wide = torch.promote_types(_real(parameter).dtype, torch.float32)
    change = _real(parameter).to(wide) - _real(before).to(parameter.device, wide)
    return sharded.whole(change)


def _real(tensor: Tensor) -> Tensor:
    """Returns a tensor; a complex one as its real and imaginary parts, in the same memory."""
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
