"""The torch.nn layers with a sparse backward. Each *is* the layer it replaces, with the same Parameters.

``sparse`` holds what the pass decided; :mod:`ecograph.rewrite.layers` has the forwards.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.rewrite.layers import RewrittenConv, RewrittenConvTranspose, RewrittenLinear


class _Sparse:
    """What all of them have: in training, the product is the sparse layer's."""

    sparse: SparseLayer

    def computed_by(self: Any) -> SparseLayer | None:
        """Returns what computes the product now; None for the plain layer's own forward."""
        return self.sparse if self.training else None


class SparseLinear(_Sparse, RewrittenLinear, nn.Linear):
    """``nn.Linear`` with a sparse backward. Input ``(*, in_features)``, output ``(*, out_features)``."""


class SparseConv1d(_Sparse, RewrittenConv, nn.Conv1d):
    """``nn.Conv1d`` with a sparse backward."""


class SparseConv2d(_Sparse, RewrittenConv, nn.Conv2d):
    """``nn.Conv2d`` with a sparse backward."""


class SparseConv3d(_Sparse, RewrittenConv, nn.Conv3d):
    """``nn.Conv3d`` with a sparse backward."""


class SparseConvTranspose1d(_Sparse, RewrittenConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a sparse backward."""


class SparseConvTranspose2d(_Sparse, RewrittenConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a sparse backward."""


class SparseConvTranspose3d(_Sparse, RewrittenConvTranspose, nn.ConvTranspose3d):
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
