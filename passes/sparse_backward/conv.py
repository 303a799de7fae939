"""Convolutions with a sparse backward: the method of ssProp.

With ``Y = conv(X, W) + b``, ``G = dL/dY`` and the kept output channels ``K``, the dense backward runs on the small
tensors ``G[:, K]`` and ``W[K]``, in one fused call for all gradients. Its grad_input is the result; its grad_weight and
grad_bias are the rows ``K`` of the full ones, which are zero elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ecograph.passes.sparse_backward.autocast import cast_inputs
from ecograph.passes.sparse_backward.gather import as_channels_last, is_channels_last, put_rows, take_columns
from ecograph.passes.sparse_backward.selection import (
    channel_scores,
    channel_scores_planar,
    dropped_nan,
    fill_value,
    select_channels,
)
from ecograph.rewrite.functions import applied, per_dimension


def sparse_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
    transposed: bool = False,
    output_padding: tuple[int, ...] = (),
    keep: int,
    grads: tuple[bool, bool] = (True, True),
    random: bool = False,
    unbiased: bool = False,
) -> Tensor:
    """A convolution whose backward computes with ``keep`` of the output channels of each group.

    Args:
        input: ``(N, C_in, *positions)``.
        weight: ``(C_out, C_in / groups, *kernel)``; where transposed, ``(C_in, C_out / groups, *kernel)``.
        bias: ``(C_out,)`` or None.
        stride: one per spatial dimension.
        padding: zeros added on both sides of each spatial dimension.
        dilation: one per spatial dimension.
        groups: number of groups.
        transposed: a transposed convolution.
        output_padding: one per spatial dimension where transposed.
        keep: output channels kept in backward in each group, from 1 to ``C_out / groups``.
        grads: whether grad_input, and grad_weight with grad_bias, are computed from the kept channels alone.
        random: keep random channels instead of those with the largest sum of absolute gradients.
        unbiased: scale what is kept by ``C_out / (groups * keep)``; with ``random``, the expectation is the dense one.

    Returns:
        ``(N, C_out, *positions)``, the same as the plain convolution.
    """
    geometry = (stride, padding, dilation, transposed, output_padding or (0,) * len(stride), groups)
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            sparse_conv, (input, weight, bias), input, weight, bias, stride=stride, padding=padding,
            dilation=dilation, groups=groups, transposed=transposed, output_padding=output_padding,
            keep=keep, grads=grads, random=random, unbiased=unbiased,
        )  # fmt: skip
    input, weight, bias = cast_inputs(input, weight, bias)
    output: Tensor = _apply(input, weight, bias, geometry, keep, grads, random, unbiased)
    return output


def padded_sparse_conv(
    input: Tensor, weight: Tensor, bias: Tensor | None, *, padding: str | tuple[int, ...], **options: Any
) -> Tensor:
    """:func:`sparse_conv` of whatever the plain function takes: padding in words, and an input without a batch.

    Args:
        input: ``(N, C_in, *positions)`` or ``(C_in, *positions)``.
        weight: as for :func:`sparse_conv`.
        bias: likewise.
        padding: likewise, or ``"same"`` or ``"valid"``.
        **options: likewise.
    """
    dims = weight.ndim - 2
    unbatched = input.ndim == dims + 1
    input, padding = _numeric_padding(input, weight, padding, options["dilation"], dims)
    output = sparse_conv(input.unsqueeze(0) if unbatched else input, weight, bias, padding=padding, **options)
    return output.squeeze(0) if unbatched else output


def _numeric_padding(
    input: Tensor, weight: Tensor, padding: Any, dilation: Any, dims: int
) -> tuple[Tensor, tuple[int, ...]]:
    """Returns the input and the padding as numbers; what ``"same"`` needs on one side only is padded explicitly."""
    if not isinstance(padding, str):
        return input, per_dimension(padding, dims)
    if padding == "valid":
        return input, (0,) * dims
    totals = [d * (k - 1) for d, k in zip(per_dimension(dilation, dims), weight.shape[2:], strict=True)]
    if any(total % 2 for total in totals):  # the odd one goes to the right, as in torch
        extra = [side for total in reversed(totals) for side in (0, total % 2)]
        input = F.pad(input, extra)
    return input, tuple(total // 2 for total in totals)


class _SparseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: tuple[Any, ...],
        keep: int,
        grads: tuple[bool, bool],
        random: bool,
        unbiased: bool,
    ) -> Tensor:
        return torch.ops.aten.convolution.default(input, weight, bias, *geometry)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, bias, ctx.geometry, ctx.keep, ctx.grads, ctx.random, ctx.unbiased = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        input, weight = ctx.saved_tensors
        want_input, want_weight, want_bias = ctx.needs_input_grad[:3]
        sparse_input, sparse_weight = ctx.grads
        *_, transposed, _, groups = ctx.geometry
        channels = grad.shape[1]

        # Work in the layout the plain backward would work in: that of the input.
        channels_last = is_channels_last(input) or is_channels_last(weight)
        if not (is_channels_last(grad) if channels_last else grad.is_contiguous()):
            grad = as_channels_last(grad, channels_last)
        positions_first = grad.movedim(1, -1)
        rows = positions_first.reshape(-1, channels) if channels_last else None
        scores = channel_scores_planar(grad) if rows is None else channel_scores(rows)
        kept = select_channels(scores, ctx.keep, groups, random=ctx.random)
        fill = fill_value(scores, grad.dtype)
        if rows is None:
            small = grad.index_select(1, kept)
        else:
            small = take_columns(rows, kept).view(*positions_first.shape[:-1], kept.numel()).movedim(-1, 1)

        small_weight = _take_weight(weight, kept, groups, transposed)
        scale = channels / kept.numel() if ctx.unbiased else 1.0
        wants = (want_input and sparse_input, want_weight and sparse_weight, want_bias and sparse_weight)
        poisoned = small_weight + dropped_nan(fill, kept) if wants[0] else small_weight
        grad_input, grad_weight, grad_bias = _backward(small, input, poisoned, ctx.geometry, wants)
        if scale != 1.0:
            grad_input, grad_weight, grad_bias = (
                None if g is None else g * scale for g in (grad_input, grad_weight, grad_bias)
            )
        if grad_weight is not None:
            grad_weight = _put_weight(weight, fill, kept, grad_weight, groups, transposed)
        if grad_bias is not None:
            grad_bias = fill.index_copy(0, kept, grad_bias)

        dense = (want_input and not sparse_input, want_weight and not sparse_weight, want_bias and not sparse_weight)
        if any(dense):
            rest = _backward(grad, input, weight, ctx.geometry, dense)
            grad_input, grad_weight, grad_bias = (
                b if a is None else a for a, b in zip((grad_input, grad_weight, grad_bias), rest, strict=True)
            )
        return grad_input, grad_weight, grad_bias, None, None, None, None, None


_apply = applied(_SparseConv)


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: tuple[Any, ...], wants: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The dense convolution backward, for the gradients that are wanted."""
    if not any(wants):
        return None, None, None
    results = torch.ops.aten.convolution_backward.default(
        grad, input, weight, [grad.shape[1]] if wants[2] else None, *geometry, list(wants)
    )
    grad_input, grad_weight, grad_bias = (r if want else None for r, want in zip(results, wants, strict=True))
    return grad_input, grad_weight, grad_bias


def _take_weight(weight: Tensor, kept: Tensor, groups: int, transposed: bool) -> Tensor:
    """Returns the weight of the kept output channels."""
    if not transposed:
        return weight.index_select(0, kept)
    if groups == 1:
        return weight.index_select(1, kept)
    index = _per_group(weight, kept, groups)
    return _grouped(weight, groups).gather(2, index).flatten(0, 1)


def _put_weight(weight: Tensor, fill: Tensor, kept: Tensor, rows: Tensor, groups: int, transposed: bool) -> Tensor:
    """Returns the full grad_weight from that of the kept output channels."""
    if not transposed:
        return put_rows(weight, fill, kept, rows)
    full = torch.empty_like(weight, dtype=rows.dtype)  # with the weight's strides: its gradient is not copied again
    grouped = torch.unflatten(full, 0, (groups, -1))  # (groups, C_in / groups, C_out / groups, *kernel)
    grouped.copy_(fill.view(groups, 1, -1, *(1,) * (grouped.ndim - 3)))
    grouped.scatter_(2, _per_group(weight, kept, groups), _grouped(rows, groups))
    return full


def _grouped(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])


def _per_group(weight: Tensor, kept: Tensor, groups: int) -> Tensor:
    """Returns ``kept`` as indices within each group, shaped for gather and scatter along dim 2 of a grouped weight."""
    keep = kept.numel() // groups
    within = kept.view(groups, 1, keep, *(1,) * (weight.ndim - 2)) % weight.shape[1]
    return within.expand(groups, weight.shape[0] // groups, keep, *weight.shape[2:])
