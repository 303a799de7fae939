"""The torch.nn layers with a sparse backward. Each *is* the layer it replaces, with the same Parameters.

A layer becomes one by having its class changed in place, so hooks and every reference to it go on working; ``sparse``
holds what the pass decided. ``_conv_forward`` keeps torch's signature: a caller may hand in a part of the weight.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.rewrite.leaf import leaf_call


class SparseLinear(nn.Linear):
    """``nn.Linear`` with a sparse backward. Input ``(*, in_features)``, output ``(*, out_features)``."""

    sparse: SparseLayer

    def forward(self, input: Tensor) -> Tensor:
        """Returns ``input @ weight.T + bias``."""
        traced: Tensor | None = leaf_call(self, input)
        if traced is not None:
            return traced
        if not self.training:
            return super().forward(input)
        return self.sparse.linear(input, self.weight, self.bias)


class _SparseConv:
    """What the three convolutions share: torch's ``_conv_forward`` with another product."""

    sparse: SparseLayer

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        traced: Tensor | None = leaf_call(self, input)
        if traced is not None:
            return traced
        padding = self.padding
        if not self.training:
            return super()._conv_forward(input, weight, bias)  # type: ignore[misc, no-any-return]
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        sparse: SparseLayer = self.sparse
        return sparse.conv(input, weight, bias, self.stride, padding, self.dilation, self.groups)


class SparseConv1d(_SparseConv, nn.Conv1d):
    """``nn.Conv1d`` with a sparse backward."""


class SparseConv2d(_SparseConv, nn.Conv2d):
    """``nn.Conv2d`` with a sparse backward."""


class SparseConv3d(_SparseConv, nn.Conv3d):
    """``nn.Conv3d`` with a sparse backward."""


class _SparseConvTranspose:
    """What the three transposed convolutions share."""

    sparse: SparseLayer

    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Returns the transposed convolution of ``input``."""
        traced: Tensor | None = leaf_call(self, input, output_size)
        if traced is not None:
            return traced
        if not self.training:
            return super().forward(input, output_size)  # type: ignore[misc, no-any-return]
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        sparse: SparseLayer = self.sparse
        return sparse.conv(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            transposed=True, output_padding=tuple(output_padding),
        )  # fmt: skip


class SparseConvTranspose1d(_SparseConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a sparse backward."""


class SparseConvTranspose2d(_SparseConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a sparse backward."""


class SparseConvTranspose3d(_SparseConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with a sparse backward."""


#: Which class takes the place of which.
REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: SparseLinear,
    nn.Conv1d: SparseConv1d,
    nn.Conv2d: SparseConv2d,
    nn.Conv3d: SparseConv3d,
    nn.ConvTranspose1d: SparseConvTranspose1d,
    nn.ConvTranspose2d: SparseConvTranspose2d,
    nn.ConvTranspose3d: SparseConvTranspose3d,
}
