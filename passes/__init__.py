"""The passes that ship with ecograph, one folder per method, each with a method card."""

from ecograph.passes.extrapolation import Extrapolate
from ecograph.passes.gradsamp import GradSamp
from ecograph.passes.sliceout import SliceOut
from ecograph.passes.sparse_backward import SparseBackward

__all__ = ["Extrapolate", "GradSamp", "SliceOut", "SparseBackward"]
