"""A compiler for cheaper training of PyTorch models."""

from importlib.metadata import version

__version__ = version("ecograph")
