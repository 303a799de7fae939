"""The oracle of slices: the full network, with the dropped units masked to zero where a product takes them in.

It interprets the captured graph of the plain model, and touches nothing but the inputs of products: there the units
that a slice leaves out are zero, and the others are scaled. What the groups are is taken from the analysis; that a
slice of them computes the same is what is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from ecograph.analysis import find_sites
from ecograph.analysis.channels import Channels, find_channels, input_dim
from ecograph.analysis.rules.products import GROUPS
from ecograph.capture import capture
from ecograph.capture.graph import BUFFER, PARAMETER


class Masked(fx.Interpreter):
    """Runs a captured graph with masks.

    Args:
        model: the plain model, whose parameters and buffers are used.
        example_inputs: as for ``optimize``.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.captured = capture(model, example_inputs)
        assert len(self.captured.graphs) == 1, [part.note for part in self.captured.parts]
        self.model = model
        self.sites = find_sites(self.captured, model)
        self.channels: Channels = find_channels(self.captured, self.sites, model)
        self.by_node = {site.node: site for site in self.sites}
        self.slices: Mapping[str, Any] = {}
        super().__init__(self.captured.graphs[0].module)

    def __call__(self, slices: Mapping[str, Any], *inputs: Tensor) -> Any:
        """Returns what the graph returns.

        Args:
            slices: for each group that is sliced, an object with ``start``, ``width`` and ``scale()``.
            inputs: the tensors that the graph takes in, in the order of the placeholders.
        """
        self.slices = slices
        self.channels.keep([group for group in self.channels.groups if group.name in slices])
        given = iter(inputs)
        args = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                name = node.meta.get(PARAMETER) or node.meta.get(BUFFER)
                args.append(_tensor(self.model, name) if name else next(given))
        return self.run(*args)

    def run_node(self, n: fx.Node) -> Any:
        site = self.by_node.get(n)
        if site is None or site.problem or site.kind == "other":
            return super().run_node(n)
        if site.groups > 1 and any(segment.group for segment in self.channels.axis(n, GROUPS)):
            return super().run_node(n)  # passes whole groups on, and sums over none of them
        dim = input_dim(site)
        mask = self.mask(dim)
        if mask is None:
            return super().run_node(n)
        source = site.product.input
        plain = self.env[source]
        shape = [1] * plain.dim()
        shape[dim.axis] = -1
        self.env[source] = plain * mask.to(plain).view(shape)
        # A source may be dropped from the environment after its last use.
        result = super().run_node(n)
        self.env[source] = plain
        return result

    def mask(self, dim: Any) -> Tensor | None:
        """Returns zeros where a dimension is cut off and the scale elsewhere; None where nothing is cut off."""
        pieces = []
        for segment in self.channels.layout(dim):
            found = self.slices.get(segment.group)
            if found is None:
                pieces.append(torch.ones(segment.size, dtype=torch.float64))
                continue
            mask = torch.zeros(segment.outer, segment.units, segment.inner, dtype=torch.float64)
            scale = found.scale()
            values = scale.double().view(1, -1, 1) if isinstance(scale, Tensor) else scale
            mask[:, found.start : found.start + found.width] = values
            pieces.append(mask.flatten())
        mask = torch.cat(pieces)
        return None if bool((mask == 1).all()) else mask


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)
