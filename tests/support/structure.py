"""What the rules say of one function, and whether it is so: the function on slices, against slices of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ecograph.analysis import Site, find_sites
from ecograph.analysis.channels import Channels, Group
from ecograph.analysis.dimensions import Dim, Dimensions, Fact, Part
from ecograph.analysis.layout import Layout
from ecograph.analysis.rules import facts_of
from ecograph.analysis.rules.call import Call, dims_of, function_name, size_of
from ecograph.analysis.rules.products import GROUPS
from ecograph.capture import capture
from ecograph.capture.graph import BUFFER, PARAMETER
from ecograph.rewrite.calls import Sizes
from ecograph.rewrite.slicing import find_slicing

#: Names of the tensors that a function is given and gives, in order.
INPUTS, OUTPUTS = "abcdefg", "yzuvw"


class Function(nn.Module):
    """A function of activations and of weights, which are parameters."""

    def __init__(self, function: Callable[..., Any], weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.function = function
        for i, weight in enumerate(weights):
            if weight.is_floating_point() and not getattr(weight, "constant", False):
                self.register_parameter(f"weight{i}", nn.Parameter(weight))
            else:
                self.register_buffer(f"weight{i}", weight)
        self.count = len(weights)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *(getattr(self, f"weight{i}") for i in range(self.count)))


@dataclass
class Kept:
    """A slice of ``width`` units from ``start`` on."""

    units: int
    start: int
    width: int
    active = True


class Structure:
    """The conclusion from the rules on every call of a function, as if nothing were known of its inputs and outputs."""

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor], weights: Sequence[Tensor] = ()) -> None:
        self.model = Function(function, weights)
        self.captured = capture(self.model, tuple(inputs))
        (self.graph,) = self.captured.graphs
        self.sites: list[Site] = find_sites(self.captured, self.model)
        nodes = list(self.graph.nodes)
        self.placeholders = self._ordered([n for n in nodes if n.op == "placeholder"], len(inputs))
        self.inputs = [*inputs, *(getattr(self.model, f"weight{i}").detach() for i in range(len(weights)))]
        (returned,) = next(n for n in nodes if n.op == "output").args
        self.outputs = [n for n in returned if isinstance(n, fx.Node)]
        sizes: dict[Dim, int] = {}
        facts: list[Fact] = []
        by_node = {site.node: site for site in self.sites}
        for node in nodes:
            sizes.update({dim: size_of(dim) for dim in _all_dims(node)})
            if node.op in ("call_function", "call_method"):
                call = Call(node, function_name(node))
                facts += list(facts_of(call, by_node.get(node)))
                sizes.update(call.sizes)
        self.dimensions = Dimensions(sizes, facts)
        self.names = self._names()

    def _ordered(self, placeholders: list[fx.Node], count: int) -> list[fx.Node]:
        """Returns inputs, then weights, each in the order in which the function has them."""
        weights = {n.meta.get(PARAMETER) or n.meta.get(BUFFER): n for n in placeholders}
        given = [n for n in placeholders if PARAMETER not in n.meta and BUFFER not in n.meta]
        by_argument = sorted(given, key=lambda n: n.name)
        assert len(given) == count, "every input must be read"
        return by_argument + [weights[name] for name in sorted(filter(None, weights))]

    def _names(self) -> dict[Part, str]:
        names = {}
        for letters, nodes in ((INPUTS, self.placeholders), (OUTPUTS, self.outputs)):
            for letter, node in zip(letters, nodes, strict=False):
                for dim in dims_of(node):
                    parts = self.dimensions.parts(dim)
                    segments = len(self.dimensions.structure[dim])
                    for part in parts:
                        name = f"{letter}{dim.axis}"
                        name += f"/{part.segment}" if segments > 1 else ""
                        name += f".{part.factor}" if len(parts) > segments else ""
                        names[part] = name
        return names

    @property
    def free(self) -> list[set[Part]]:
        """The sets of parts that can be sliced together."""
        return [c for c in self.dimensions.components() if not any(part in self.dimensions.stops for part in c)]

    def said(self) -> set[str]:
        """Returns for each set the names of its parts in the inputs and outputs: ``"a1 y2.0"``."""
        found = (sorted(self.names[part] for part in c if part in self.names) for c in self.free)
        return {" ".join(names) for names in found if names}

    def reasons(self) -> set[str]:
        """Returns why parts of the inputs and outputs cannot be sliced."""
        shown = (c for c in self.dimensions.components() if any(part in self.names for part in c))
        stops = self.dimensions.stops
        return {stops[part].why for component in shown for part in component if part in stops}

    def check(self, *, summed: bool = False, values: bool = True, least: int = 1) -> int:
        """Asserts for every set of parts that the function of slices is the slice of the function.

        Args:
            summed: the function sums over units, so it is compared with that of zeros in place of those left out.
            values: compare values and not only shapes.
            least: the fewest units of a slice.

        Returns:
            How many sets there were.
        """
        count = 0
        for component in self.free:
            (units,) = {self.dimensions.size(part) for part in component}
            if units < 2 or not any(part in self.names for part in component):
                continue
            segments = {(part.dim, part.segment) for part in component}
            if len(segments) < len(component):
                continue  # no group is sliced twice in one dimension
            count += 1
            for start, width in ((0, units // 2), (units - least, least), (units // 2, units // 3)):
                self._check(component, Kept(units, start, max(width, least)), summed, values)
        return count

    def _check(self, component: set[Part], kept: Kept, summed: bool, values: bool) -> None:
        group = Group("g", kept.units, 1, [], [], [], [], frozenset(component))
        channels = Channels(self.dimensions, [group])
        slicing = find_slicing([self.graph], channels, self.sites, self.model)
        sizes = {change.node: Sizes(change, {"g": kept}) for change in slicing.sizes}
        small = [_cut(t, channels.layouts(n), kept) for t, n in zip(self.inputs, self.placeholders, strict=True)]
        whole = self.inputs
        if summed:
            whole = [_zeroed(t, channels.layouts(n), kept) for t, n in zip(whole, self.placeholders, strict=True)]
        groups = {s.node: channels.axis(s.node, GROUPS) for s in self.sites if s.kind == "conv" and not s.problem}
        found = _Small(self.graph.module, sizes, groups, kept).run(*self._arguments(small))
        expected = _Small(self.graph.module, {}, {}, kept).run(*self._arguments(whole))
        results = next(n for n in self.graph.nodes if n.op == "output").args[0]
        for node, a, b in zip(results, found, expected, strict=True):
            b = _cut(b, channels.layouts(node), kept)
            assert a.shape == b.shape, (kept, component)
            if values:
                torch.testing.assert_close(a, b)

    def _arguments(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        by_node = dict(zip(self.placeholders, tensors, strict=True))
        return [by_node[n].clone() for n in self.graph.nodes if n.op == "placeholder"]


class _Small(fx.Interpreter):
    """Runs a graph on slices."""

    def __init__(
        self, module: nn.Module, sizes: Mapping[fx.Node, Sizes], groups: Mapping[fx.Node, Layout], kept: Kept
    ) -> None:
        super().__init__(module)
        self.sizes = sizes
        self.groups = groups
        self.kept = kept

    def run_node(self, n: fx.Node) -> Any:
        if n in self.sizes:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if not args:
                args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
            changed = self.sizes[n](args, kwargs)
            assert changed is not None
            return getattr(self, n.op)(n.target, *changed)
        if any(segment.group for segment in self.groups.get(n, ())):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            assert "groups" in kwargs, "give the groups of a convolution by name"
            return getattr(self, n.op)(n.target, args, {**kwargs, "groups": self.kept.width})
        return super().run_node(n)


def _index(layout: Layout, kept: Kept) -> Tensor:
    """Returns the elements of a dimension that are kept."""
    found, offset = [], 0
    for segment in layout:
        elements = torch.arange(segment.size)
        if segment.group:
            elements = elements.view(segment.outer, segment.units, segment.inner)
            elements = elements[:, kept.start : kept.start + kept.width].flatten()
        found.append(offset + elements)
        offset += segment.size
    return torch.cat(found)


def _cut(tensor: Tensor, layouts: Sequence[Layout], kept: Kept) -> Tensor:
    for dim, layout in enumerate(layouts):
        tensor = tensor.index_select(dim, _index(layout, kept))
    return tensor


def _zeroed(tensor: Tensor, layouts: Sequence[Layout], kept: Kept) -> Tensor:
    for dim, layout in enumerate(layouts):
        mask = torch.zeros(tensor.shape[dim], dtype=tensor.dtype)
        mask[_index(layout, kept)] = 1
        shape = [1] * tensor.dim()
        shape[dim] = -1
        tensor = tensor * mask.view(shape)
    return tensor


def _all_dims(node: fx.Node) -> list[Dim]:
    value = node.meta.get("example_value")
    count = len(value) if isinstance(value, (tuple, list)) else 0
    return [*dims_of(node), *(dim for item in range(count) for dim in dims_of(node, item))]
