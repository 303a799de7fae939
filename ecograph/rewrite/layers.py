"""The torch.nn layers whose product a pass computes, without saying how.

A pass makes a class of its own from each: the class in here, the torch.nn layer, and which
:class:`~ecograph.rewrite.passes.Layer` computes the product. A layer becomes one by having its class changed in place,
so its Parameters, its hooks and every reference to it stay. ``_conv_forward`` keeps torch's signature: a caller may
hand in a part of the weight.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ecograph.rewrite.leaf import leaf_call
from ecograph.rewrite.passes import Layer


class _Rewritten:
    """What all of them have."""

    def computed_by(self) -> Layer | None:
        """Returns what computes the product now; None for the plain layer's own forward."""
        raise NotImplementedError


class RewrittenLinear(_Rewritten):
    """``nn.Linear`` with another product."""

    def forward(self: Any, input: Tensor) -> Tensor:
        """Returns ``input @ weight.T + bias``."""
        traced: Tensor | None = leaf_call(self, input)
        if traced is not None:
            return traced
        layer: Layer | None = self.computed_by()
        if layer is None:
            return super().forward(input)  # type: ignore[misc, no-any-return]
        return layer.linear(input, self.weight, self.bias)


class RewrittenConv(_Rewritten):
    """The three convolutions: torch's ``_conv_forward`` with another product."""

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        traced: Tensor | None = leaf_call(self, input)
        if traced is not None:
            return traced
        layer: Layer | None = self.computed_by()
        if layer is None:
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc, no-any-return]
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return layer.conv(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class RewrittenConvTranspose(_Rewritten):
    """The three transposed convolutions with another product."""

    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Returns the transposed convolution of ``input``."""
        traced: Tensor | None = leaf_call(self, input, output_size)
        if traced is not None:
            return traced
        layer: Layer | None = self.computed_by()
        if layer is None:
            return super().forward(input, output_size)  # type: ignore[misc, no-any-return]
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        return layer.conv(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            transposed=True, output_padding=tuple(output_padding),
        )  # fmt: skip
