"""Sparse backward: compute the gradient of the strongest output channels only."""

from ecograph.passes.sparse_backward.conv import sparse_conv
from ecograph.passes.sparse_backward.linear import sparse_linear
from ecograph.passes.sparse_backward.sparse_backward import SparseBackward

__all__ = ["SparseBackward", "sparse_conv", "sparse_linear"]
