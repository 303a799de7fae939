"""Compares what ecograph finds in a model with the eager reference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from ecograph.analysis import Site, find_sites
from ecograph.capture import Capture, capture
from ecograph.cost import Flops, graph_flops
from zoo.counting import Call, Inputs, Reference, reference


@dataclass(frozen=True)
class Checked:
    """A captured model beside its reference."""

    captured: Capture
    sites: list[Site]
    flops: Flops
    reference: Reference

    @property
    def share(self) -> float:
        """The share of the eager forward's FLOPs that lies inside captured graphs."""
        return self.flops.forward / self.reference.forward


def check(model: nn.Module, inputs: Inputs, *, real: bool = False) -> Checked:
    """Captures ``model`` and counts it both ways."""
    captured = capture(model, inputs)
    return Checked(captured, find_sites(captured, model), total_flops(captured), reference(model, inputs, real=real))


def total_flops(captured: Capture) -> Flops:
    """Adds up all graphs."""
    total = Flops()
    for graph in captured.graphs:
        for flops in graph_flops(graph).values():
            total += flops
    return total


def calls(sites: list[Site], model: nn.Module) -> Counter[Call]:
    """Returns the sites in the reference's words: parameters and modules under their first names."""
    names = {id(p): name for name, p in model.named_parameters()}
    paths = {id(m): path for path, m in model.named_modules()}
    return Counter(
        (
            frozenset(names[id(model.get_parameter(name))] for name in site.parameters),
            paths[id(model.get_submodule(site.module))],
        )
        for site in sites
    )
