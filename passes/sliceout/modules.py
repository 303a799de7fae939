"""The torch.nn layers that run on a slice in training. Each *is* the layer it replaces, with the same Parameters.

``sliced`` holds what the pass decided; :mod:`ecograph.rewrite.layers` has the forwards of the products. Whether a layer
is sliced is its groups' affair and not its own: one that the user put in eval mode still gets small activations.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.norm import SlicedNorm, sliced_batch_norm
from ecograph.rewrite.layers import RewrittenConv, RewrittenConvTranspose, RewrittenLinear
from ecograph.rewrite.leaf import leaf_call


class _Sliced:
    """What all products have."""

    sliced: SlicedLayer

    def computed_by(self: Any) -> SlicedLayer | None:
        """Returns what computes the product now; None for the plain layer's own forward."""
        layer: SlicedLayer = self.sliced
        if self.training:
            return layer
        return layer.alone if layer.active else None


class SlicedLinear(_Sliced, RewrittenLinear, nn.Linear):
    """``nn.Linear`` on slices of its features."""


class SlicedConv1d(_Sliced, RewrittenConv, nn.Conv1d):
    """``nn.Conv1d`` on slices of its channels."""


class SlicedConv2d(_Sliced, RewrittenConv, nn.Conv2d):
    """``nn.Conv2d`` on slices of its channels."""


class SlicedConv3d(_Sliced, RewrittenConv, nn.Conv3d):
    """``nn.Conv3d`` on slices of its channels."""


class SlicedConvTranspose1d(_Sliced, RewrittenConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` on slices of its channels."""


class SlicedConvTranspose2d(_Sliced, RewrittenConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` on slices of its channels."""


class SlicedConvTranspose3d(_Sliced, RewrittenConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` on slices of its channels."""


class _SlicedBatchNorm:
    """The three batch norms."""

    sliced: SlicedNorm

    def forward(self: Any, input: Tensor) -> Tensor:
        """Returns the normalized ``input``, as torch's own forward does for all channels."""
        traced: Tensor | None = leaf_call(self, input)
        if traced is not None:
            return traced
        norm: SlicedNorm = self.sliced
        if not norm.active:
            return super().forward(input)  # type: ignore[misc, no-any-return]
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        # A layer that does not track leaves alone the statistics it has, in training; in eval mode it uses them.
        tracked = self.track_running_stats or not self.training
        return sliced_batch_norm(
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
            cuts=norm.cuts,
            scale=norm.scale(),
            gain=norm.gain(),
            name=norm.name,
        )


class SlicedBatchNorm1d(_SlicedBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` on a slice of its channels."""


class SlicedBatchNorm2d(_SlicedBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` on a slice of its channels."""


class SlicedBatchNorm3d(_SlicedBatchNorm, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` on a slice of its channels."""


#: Which class takes the place of which.
REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: SlicedLinear,
    nn.Conv1d: SlicedConv1d,
    nn.Conv2d: SlicedConv2d,
    nn.Conv3d: SlicedConv3d,
    nn.ConvTranspose1d: SlicedConvTranspose1d,
    nn.ConvTranspose2d: SlicedConvTranspose2d,
    nn.ConvTranspose3d: SlicedConvTranspose3d,
    nn.BatchNorm1d: SlicedBatchNorm1d,
    nn.BatchNorm2d: SlicedBatchNorm2d,
    nn.BatchNorm3d: SlicedBatchNorm3d,
}
