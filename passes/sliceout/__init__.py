"""SliceOut: train on contiguous slices of every hidden width, so that each step is smaller."""

from ecograph.passes.sliceout.sliceout import SliceOut

__all__ = ["SliceOut"]
