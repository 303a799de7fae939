"""One rewritten layer at run time: how many channels it keeps now, and the product computed accordingly.

The replaced layers (:mod:`.modules`), custom modules whose products are routed here, and rewritten graphs all call
:meth:`SparseLayer.linear` and :meth:`SparseLayer.conv`. At rate 0, in eval mode and without gradients these call the
plain torch function and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.cost.flops import Flops, conv_flops, linear_flops
from ecograph.passes.sparse_backward.conv import padded_sparse_conv
from ecograph.passes.sparse_backward.keep import kept_channels, sparse_cost
from ecograph.passes.sparse_backward.linear import sparse_linear
from ecograph.passes.sparse_backward.pays import why_dense_here
from ecograph.rewrite.functions import mapped, per_dimension, plain_conv
from ecograph.schedule import Rate


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

    def gradients(self) -> tuple[tuple[bool, bool], bool, bool]:
        """Returns what an exported graph needs to know: which gradients are sparse, and ``random`` and ``unbiased``."""
        return self.grads, self.random, self.unbiased

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
                flops = linear_flops(tuple(output.shape), weight.shape[1])
                self._decide(flops, (), input, weight, bias)
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
                geometry = (dims, stride, padding, dilation, groups, transposed, output_padding)
                self._decide(conv_flops(*shapes, transposed=transposed), geometry, input, weight, bias)
            return output
        return padded_sparse_conv(
            input, weight, bias,
            stride=per_dimension(stride, dims), padding=padding, dilation=per_dimension(dilation, dims), groups=groups,
            transposed=transposed, output_padding=per_dimension(output_padding, dims),
            keep=keep, grads=self.grads, random=self.random, unbiased=self.unbiased,
        )  # fmt: skip

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

    def _decide(
        self, flops: int, geometry: tuple[Any, ...], input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> None:
        """Settles, at the first training batch, whether this layer's backward is ever sparse.

        Args:
            flops: of the forward.
            geometry: arguments of ``PlainProduct.conv``; none for a linear product.
            input: as everything below, what the product is called with.
            weight: likewise.
            bias: likewise.
        """
        if not torch.is_grad_enabled():
            return
        wants = (input.requires_grad, weight.requires_grad)
        self.flops = Flops(flops, flops * wants[0], flops * wants[1])
        self.dense_because = why_dense_here(
            geometry,
            tuple(input.shape),
            tuple(weight.shape),
            bias is not None,
            _computing_type(input, weight),
            input.device.type,
            wants,
            self.rate.peak,
            self.align,
            self.grads,
            self.random,
            self.unbiased,
        )


def _computing_type(input: Tensor, weight: Tensor) -> str:
    """Returns the name of the type that the product computes with."""
    device = input.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return str(dtype).removeprefix("torch.")
