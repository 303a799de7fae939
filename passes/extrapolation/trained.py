"""What the optimizer trains, and whether its gradients are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from ecograph.passes.extrapolation.sharding import aligned, own_part


@dataclass(frozen=True)
class Trained:
    """A parameter in the optimizer.

    Attributes:
        index: counted through the optimizer's groups.
        parameter: itself.
        sign: -1 where the optimizer goes up.
    """

    index: int
    parameter: Tensor
    sign: float

    @property
    def weight(self) -> Tensor:
        """What is on this rank, without a graph."""
        return own_part(self.parameter.detach())

    @property
    def gradient(self) -> Tensor:
        """What is on this rank, dense; only where there is one."""
        assert self.parameter.grad is not None
        gradient = own_part(aligned(self.parameter.grad.detach(), self.parameter))
        return gradient if gradient.layout == torch.strided else gradient.to_dense()


def trained(optimizer: Optimizer) -> list[Trained]:
    """Returns what the optimizer trains now: between steps, groups may be added and parameters frozen."""
    found = []
    index = 0
    for group in optimizer.param_groups:
        sign = -1.0 if group.get("maximize", False) else 1.0
        for parameter in group["params"]:
            if parameter.requires_grad:
                found.append(Trained(index, parameter, sign))
            index += 1
    return found


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Returns whether there is no infinity and no nan in any of the tensors: 0-d, bool; nobody waits for the device."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    flags = [torch.stack(torch._foreach_norm(same, ord=math.inf)).isfinite().all() for same in alike.values()]
    if not flags:
        return torch.tensor(True)
    return torch.stack([flag.to(flags[0].device) for flag in flags]).all()
