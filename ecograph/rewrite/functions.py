"""Torch's own product functions, by kind, and what every function that takes their place must ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import TransformType, unwrap_if_dead

_CONVS: dict[tuple[int, bool], Callable[..., Tensor]] = {
    (1, False): F.conv1d,
    (2, False): F.conv2d,
    (3, False): F.conv3d,
    (1, True): F.conv_transpose1d,
    (2, True): F.conv_transpose2d,
    (3, True): F.conv_transpose3d,
}


def plain_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    *,
    transposed: bool,
    output_padding: Any,
) -> Tensor:
    """``F.conv*d`` or ``F.conv_transpose*d``, as the weight's dimensions and ``transposed`` say."""
    function = _CONVS[weight.ndim - 2, transposed]
    if transposed:
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return function(input, weight, bias, stride, padding, dilation, groups)


def per_dimension(value: Any, dims: int) -> tuple[int, ...]:
    """Returns one int per spatial dimension."""
    if isinstance(value, int):
        return (value,) * dims
    values = tuple(value)
    return values * dims if len(values) == 1 else values


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Returns ``function.apply`` for calls that give every argument by its position.

    ``apply`` binds the arguments to the signature, to fill in defaults: in Python, for every call. Between large
    operations, where that code is not in the caches, it takes longer than many a small product. Transforms of
    ``torch.func`` and the compiler see the function as always.
    """
    # What apply calls with the arguments it has bound.
    quick = super(torch.autograd.Function, function).apply  # type: ignore[misc]

    def apply(*args: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return function.apply(*args)  # type: ignore[no-untyped-call]
        # A tensor that has outlived its transform is the tensor it wraps.
        return quick(*(unwrap_if_dead(arg) if isinstance(arg, Tensor) else arg for arg in args))

    return apply


def mapped() -> bool:
    """Whether ``torch.func`` maps over this call (vmap) or differentiates it forward (jvp).

    A custom autograd function can then not be used, unless it was written for that.
    """
    if torch.compiler.is_compiling():
        return False
    levels = torch._C._functorch.get_interpreter_stack()
    return bool(levels) and any(level.key() in (TransformType.Vmap, TransformType.Jvp) for level in levels)
