"""Linear products with a sparse backward: meProp's idea with ssProp's channel scores.

With ``Y = X W^T + b`` and the kept output features ``K`` (``G = dL/dY``)::

    dL/dX = G[:, K] W[K, :]        dL/dW[K, :] = G[:, K]^T X        dL/db[K] = sum of G[:, K]

and zero in the rows of W and b that were not kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ecograph.passes.sparse_backward.autocast import cast_inputs
from ecograph.passes.sparse_backward.gather import put_rows, take_columns, take_rows
from ecograph.passes.sparse_backward.selection import channel_scores, dropped_nan, fill_value, select_channels
from ecograph.rewrite.functions import applied


def sparse_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    keep: int,
    grads: tuple[bool, bool] = (True, True),
    random: bool = False,
    unbiased: bool = False,
) -> Tensor:
    """``F.linear`` whose backward computes with ``keep`` of the output features.

    Args:
        input: ``(*, in_features)``, any leading dimensions.
        weight: ``(out_features, in_features)``, in any memory layout.
        bias: ``(out_features,)`` or None.
        keep: output features kept in backward, from 1 to out_features.
        grads: whether grad_input, and grad_weight with grad_bias, are computed from the kept features alone.
        random: keep random features instead of those with the largest sum of absolute gradients.
        unbiased: scale what is kept by ``out_features / keep``; with ``random``, the expectation is the dense one.

    Returns:
        ``(*, out_features)``, the same as ``F.linear``.
    """
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            sparse_linear, (input, weight, bias), input, weight, bias,
            keep=keep, grads=grads, random=random, unbiased=unbiased,
        )  # fmt: skip
    input, weight, bias = cast_inputs(input, weight, bias)
    output: Tensor = _apply(input, weight, bias, keep, grads, random, unbiased)
    return output


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        keep: int,
        grads: tuple[bool, bool],
        random: bool,
        unbiased: bool,
    ) -> Tensor:
        return F.linear(input, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, ctx.keep, ctx.grads, ctx.random, ctx.unbiased = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grad_outputs
        input, weight = ctx.saved_tensors
        want_input, want_weight, want_bias = ctx.needs_input_grad[:3]
        sparse_input, sparse_weight = ctx.grads
        out_features = weight.shape[0]
        grad = grad_output.reshape(-1, out_features).contiguous()
        rows = input.reshape(-1, weight.shape[1])

        scores = channel_scores(grad)
        kept = select_channels(scores, ctx.keep, random=ctx.random)
        fill = fill_value(scores, grad.dtype)
        small = take_columns(grad, kept)
        scale = out_features / ctx.keep if ctx.unbiased else 1.0

        grad_input = grad_weight = grad_bias = None
        if want_input:
            if sparse_input:
                small_weight = take_rows(weight, kept) + dropped_nan(fill, kept)
                small_weight = small_weight if scale == 1.0 else small_weight * scale
                grad_input = (small @ small_weight).view_as(input)
            else:
                grad_input = (grad @ weight).view_as(input)
        if want_weight:
            if sparse_weight:
                product = small.t() @ rows
                grad_weight = put_rows(weight, fill, kept, product if scale == 1.0 else product * scale)
            else:
                grad_weight = grad.t() @ rows
        if want_bias:
            if sparse_weight:
                total = small.sum(0)
                grad_bias = fill.index_copy(0, kept, total if scale == 1.0 else total * scale)
            else:
                grad_bias = grad.sum(0)
        return grad_input, grad_weight, grad_bias, None, None, None, None


_apply = applied(_SparseLinear)
