"""Rewriting the gradients that ONNX Runtime built, so that they compute with the kept channels only."""

from ecograph.export.gradients.momentum import VELOCITY, add_velocities, put_momentum
from ecograph.export.gradients.relu import replace_relu_grad
from ecograph.export.gradients.rewrite import KEEP, RANKS, make_sparse
from ecograph.export.gradients.transposed import replace_conv_transpose_grad

__all__ = [
    "KEEP",
    "RANKS",
    "VELOCITY",
    "add_velocities",
    "make_sparse",
    "put_momentum",
    "replace_conv_transpose_grad",
    "replace_relu_grad",
]
