"""One rewritten layer at run time: how many channels it keeps now, and the product computed accordingly.

The replaced layers (:mod:`.modules`), custom modules whose products are routed here, and rewritten graphs all call
:meth:`SparseLayer.linear` and :meth:`SparseLayer.conv`. At rate 0, in eval mode and without gradients these call the
plain torch function and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.cost.flops import Flops
from ecograph.passes.sparse_backward.conv import sparse_conv
from ecograph.passes.sparse_backward.linear import sparse_linear
from ecograph.passes.sparse_backward.pays import Workload, why_dense
from ecograph.rewrite.functions import mapped, per_dimension, plain_conv
from ecograph.schedule import Rate


def kept_channels(channels: int, drop: float, align: int = 1) -> int:
    """Returns how many of ``channels`` a drop rate keeps: ``max(int((1 - drop) * channels), 1)``, rounded up to align.

    Args:
        channels: output channels, of one group.
        drop: from 0 to below 1.
        align: the result is a multiple of it, or all channels.
    """
    keep = max(int((1 - drop) * channels + 1e-6), 1)  # 1 - 0.8 is a hair less than 0.2
    return min(-(-keep // align) * align, channels)


def sparse_cost(plain: Flops, channels: int, rate: float, grads: tuple[bool, bool], align: int) -> Flops:
    """Returns the FLOPs of a layer at a drop rate: its sparse gradients shrink to the kept channels.

    Args:
        plain: of the plain layer.
        channels: output channels, of one group.
        rate: the drop rate.
        grads: whether grad_input and grad_weight are sparse.
        align: as in the pass.
    """
    keep = kept_channels(channels, rate, align)
    return replace(
        plain,
        grad_input=plain.grad_input * keep // channels if grads[0] else plain.grad_input,
        grad_weight=plain.grad_weight * keep // channels if grads[1] else plain.grad_weight,
    )


class SparseLayer:
    """What a layer needs to know to run its backward sparsely. Shared by all calls of the layer.

    Attributes:
        name: the layer's name.
        rate: the pass's rate, shared by all its layers.
        channels: output channels, of one group.
        dense_because: why the layer stays dense, ``""`` where it does not, None where the first batch will tell.
        flops: of the plain layer, as the first batch showed; None before, and where they were known from the start.
    """

    def __init__(
        self,
        name: str,
        rate: Rate,
        *,
        channels: int,
        grads: tuple[str, ...],
        random: bool,
        unbiased: bool,
        align: int,
        dense_because: str | None,
    ) -> None:
        self.name = name
        self.rate = rate
        self.channels = channels
        self.grads = ("input" in grads, "weight" in grads)
        self.random = random
        self.unbiased = unbiased
        self.align = align
        self.dense_because = dense_because
        self.flops: Flops | None = None

    def __repr__(self) -> str:
        return f"SparseLayer({self.name!r}, drop={self.rate.peak:g})"

    def acts(self, training: bool) -> bool:
        """Whether it computes anything but the plain product now, or has yet to see the batch that decides it."""
        return training and (self.dense_because is None or (self.dense_because == "" and self.rate.now != 0))

    def keep(self, channels: int) -> int:
        """Returns how many of ``channels`` (of one group) the backward keeps at the present rate."""
        return kept_channels(channels, self.rate.now, self.align)

    def cost(self, plain: Flops, rate: float, channels: int | None = None) -> Flops:
        """Returns the FLOPs of a call at a rate, given those of the plain call.

        Args:
            plain: of the plain call.
            rate: the drop rate.
            channels: of this call, per group, where it differs from the layer's: a packed weight is used in parts.
        """
        return sparse_cost(plain, channels or self.channels, rate, self.grads, self.align)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``F.linear`` with the sparse backward that the rate asks for."""
        keep = self._keep_now(input, weight, weight.shape[0])
        if keep == weight.shape[0]:
            output = F.linear(input, weight, bias)
            if self.dense_because is None:
                self._decide(Workload.of_linear(tuple(output.shape), weight.shape[1]), input, weight)
            return output
        return sparse_linear(
            input, weight, bias, keep=keep, grads=self.grads, random=self.random, unbiased=self.unbiased
        )  # fmt: skip

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        transposed: bool = False,
        output_padding: Any = 0,
    ) -> Tensor:
        """``F.conv*d`` or ``F.conv_transpose*d`` with the sparse backward that the rate asks for."""
        dims = weight.ndim - 2
        per_group = weight.shape[1] if transposed else weight.shape[0] // groups
        keep = self._keep_now(input, weight, per_group)
        if keep == per_group:
            output = plain_conv(
                input, weight, bias, stride, padding, dilation, groups,
                transposed=transposed, output_padding=output_padding,
            )  # fmt: skip
            if self.dense_because is None:
                shapes = tuple(input.shape), tuple(weight.shape), tuple(output.shape)
                self._decide(Workload.of_conv(*shapes, transposed=transposed), input, weight)
            return output
        input, padding = _numeric_padding(input, weight, padding, dilation, dims)
        unbatched = input.ndim == dims + 1
        output = sparse_conv(
            input.unsqueeze(0) if unbatched else input, weight, bias,
            stride=per_dimension(stride, dims), padding=padding, dilation=per_dimension(dilation, dims), groups=groups,
            transposed=transposed, output_padding=per_dimension(output_padding, dims),
            keep=keep, grads=self.grads, random=self.random, unbiased=self.unbiased,
        )  # fmt: skip
        return output.squeeze(0) if unbatched else output

    def _keep_now(self, input: Tensor, weight: Tensor, channels: int) -> int:
        """Returns how many channels this call's backward keeps; all of them for the plain function."""
        if self.rate.now == 0 or self.dense_because != "" or not torch.is_grad_enabled():
            return channels
        wanted = (self.grads[0] and input.requires_grad) or (self.grads[1] and weight.requires_grad)
        if not wanted or input.numel() == 0:
            return channels
        if input.is_nested or weight.is_complex() or mapped():
            return channels
        return self.keep(channels)

    def _decide(self, workload: Workload, input: Tensor, weight: Tensor) -> None:
        """Settles, at the first training batch, whether this layer's backward is ever sparse."""
        if not torch.is_grad_enabled():
            return
        wants = (input.requires_grad, weight.requires_grad)
        self.flops = Flops(workload.flops, workload.flops * wants[0], workload.flops * wants[1])
        sparse = (self.grads[0] and wants[0], self.grads[1] and wants[1])
        self.dense_because = why_dense(workload, self.rate.peak, sparse)


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
