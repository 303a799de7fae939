"""What training costs, from shapes alone."""

from ecograph.cost.flops import Flops, graph_flops, product_flops

__all__ = ["Flops", "graph_flops", "product_flops"]
