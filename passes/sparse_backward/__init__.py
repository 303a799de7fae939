"""Sparse backward: compute the gradient of the strongest output channels only."""
