"""GradSamp: skip epochs, and move the weights by noise like their last change."""

from ecograph.passes.gradsamp.gradsamp import GradSamp
from ecograph.passes.gradsamp.sampler import EpochSampler

__all__ = ["EpochSampler", "GradSamp"]
