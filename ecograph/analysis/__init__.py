"""What captured graphs say: which products there are, by which parameters, which come first and last."""

from ecograph.analysis.products import Product, find_product
from ecograph.analysis.sites import Site, find_sites

__all__ = ["Product", "Site", "find_product", "find_sites"]
