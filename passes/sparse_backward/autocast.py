"""Autocast for our own ops: the casts that torch makes before a convolution or a linear product."""

from __future__ import annotations

import torch
from torch import Tensor


def cast_inputs(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns the operands as autocast would hand them to the plain op.

    The casts are made outside the autograd.Function, where autograd differentiates them, so the backward sees the one
    dtype that the forward computed in, and gradients reach the parameters in the parameters' dtype.
    """
    device = input.device.type
    if not torch.is_autocast_enabled(device):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor

    return cast(input), cast(weight), None if bias is None else cast(bias)
