"""Extrapolation: compute each gradient at a point ahead of the weights, and apply it at the weights."""

from ecograph.passes.extrapolation.extrapolate import Extrapolate
from ecograph.passes.extrapolation.extrapolation import Extrapolation

__all__ = ["Extrapolate", "Extrapolation"]
