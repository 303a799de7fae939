"""A model as a tree: modules, the layers in them, and the nodes of the graph in the layers; with the flow of data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from ecograph.cost.estimate import LayerCost
from ecograph.tools import node_diff

if TYPE_CHECKING:
    from ecograph.explain import LayerReport
    from ecograph.tools.graph_nodes import NodeFacts
    from ecograph.tools.inspected import Inspected

#: A module with others inside, a module without (or what a module does outside of those inside), or a node of a graph.
Kind = Literal["module", "layer", "node"]

#: What a module with others inside does itself is a layer in it, by this name.
OWN = "(itself)"
#: And what the optimizer does, which is no module's, by this one.
OPTIMIZER = "(optimizer)"


@dataclass
class Item:
    """A module, layer or node.

    Attributes:
        number: its place in the tree's list, in which parents come before their children.
        parent: the number of what it is in; -1 for the model.
        kind: what it is.
        name: within its parent.
        path: of the module; for a node, of its layer.
        type: class of the module; operation of a node.
        cost: what a layer costs in a step.
        products: what was decided about the products of a layer.
        facts: of a node.
        line: of a node, which pass changed it.
        children: in the order in which they run.
    """

    number: int
    parent: int
    kind: Kind
    name: str
    path: str
    type: str
    cost: LayerCost | None = None
    products: list[LayerReport] = field(default_factory=list)
    facts: NodeFacts | None = None
    line: node_diff.Line | None = None
    children: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """A model as a tree.

    Attributes:
        items: parents before their children.
        edges: pairs of layers, by number, between which data flows.
        inputs: layers that the model's inputs flow into.
        outputs: layers whose results the model returns.
    """

    items: Sequence[Item]
    edges: Sequence[tuple[int, int]]
    inputs: Sequence[int]
    outputs: Sequence[int]

    @property
    def layers(self) -> Iterator[Item]:
        """The layers, in the order in which they run."""
        return (item for item in self.items if item.kind == "layer")


def grow(inspected: Inspected) -> Tree:
    """Returns the tree of a model that was compiled with its graphs kept."""
    return _Grower(inspected).tree()


class _Grower:
    def __init__(self, inspected: Inspected) -> None:
        self.inspected = inspected
        self.types = inspected.types
        layers = [facts.layer for facts in self._nodes()]
        costs = [each for cost in inspected.estimate.layers for each in _parts(cost)] if inspected.estimate else []
        layers += [cost.name for cost in costs if cost.type != OPTIMIZER]
        products = [(product, self._place(product.name)) for product in inspected.report.layers]
        layers += [path for _, path in products]
        #: paths with others inside, of those in which something happens
        self.holders = {above for path in dict.fromkeys(layers) for above in _above(path)}
        self.root = Item(0, -1, "module", inspected.report.model, "", inspected.report.model)
        self.modules = {"": self.root}
        self.layers: dict[str, Item] = {}
        for path in dict.fromkeys(layers):
            self._layer(path)
        for cost in costs:
            if cost.type == OPTIMIZER:
                self.root.children.append(Item(-1, -1, "layer", OPTIMIZER, "", "optimizer", cost=cost))
            else:
                self._layer(cost.name).cost = cost
        for product, path in products:
            self._layer(path).products.append(product)

    def _nodes(self) -> Iterator[NodeFacts]:
        for graph in self.inspected.graphs:
            for node in graph.nodes.values():
                if node.operation not in ("input", "output"):
                    yield node

    def _place(self, name: str) -> str:
        """Returns the module that a product belongs to: products may be named after a parameter, or a call of many."""
        path = name.partition(" (call ")[0]
        while path and path not in self.types:
            path = path.rpartition(".")[0]
        return path

    def _module(self, path: str) -> Item:
        if path not in self.modules:
            above, _, name = path.rpartition(".")
            parent = self._module(above)
            item = Item(-1, -1, "module", name, path, self.types.get(path, ""))
            parent.children.append(item)
            self.modules[path] = item
        return self.modules[path]

    def _layer(self, path: str) -> Item:
        if path not in self.layers:
            type_ = self.types.get(path, "")
            if path == "" or path in self.holders:
                parent, name = self._module(path), OWN
            else:
                above, _, name = path.rpartition(".")
                parent = self._module(above)
            self.layers[path] = Item(-1, -1, "layer", name, path, type_)
            parent.children.append(self.layers[path])
        return self.layers[path]

    def tree(self) -> Tree:
        """Returns the tree, with the nodes of the graphs in their layers."""
        edges: dict[tuple[str, str], None] = {}
        inputs: dict[str, None] = {}
        outputs: dict[str, None] = {}
        graphs = self.inspected.graphs
        for graph in graphs:
            for line in node_diff.lines(graph):
                facts = graph.nodes.get(line.node)
                if facts is not None and facts.operation not in ("input", "output"):
                    operation = _called(line.code) or facts.operation
                    item = Item(-1, -1, "node", line.node, facts.layer, operation, facts=facts, line=line)
                    self._layer(facts.layer).children.append(item)
            for facts in graph.nodes.values():
                for source in (graph.nodes[name] for name in facts.inputs if name in graph.nodes):
                    if source.operation == "input" or facts.operation == "output":
                        # Between graphs runs what was not captured.
                        if source.operation == "input" and graph is graphs[0]:
                            inputs[facts.layer] = None
                        if facts.operation == "output" and graph is graphs[-1]:
                            outputs[source.layer] = None
                    elif source.layer != facts.layer:
                        edges[source.layer, facts.layer] = None
        items: list[Item] = []
        self._number(self.root, -1, items)
        numbers = {path: layer.number for path, layer in self.layers.items()}
        return Tree(
            items,
            [(numbers[source], numbers[target]) for source, target in edges],
            [numbers[path] for path in inputs if path in numbers],
            [numbers[path] for path in outputs if path in numbers],
        )

    def _number(self, root: Item, parent: int, items: list[Item]) -> None:
        waiting = [(root, parent)]
        while waiting:
            item, above = waiting.pop()
            item.number, item.parent = len(items), above
            items.append(item)
            waiting += [(child, item.number) for child in reversed(item.children)]


def _called(code: str) -> str:
    """Returns the function that a node's line calls, or ""."""
    return _without_module(code.partition(" = ")[2].partition("(")[0].rpartition(".")[2])


@cache
def _without_module(name: str) -> str:
    """Returns the name of a function alone: fx writes the module of a pass's own in front of it, with ``_``."""
    modules = (module.replace(".", "_") + "_" for module in list(sys.modules) if "." in module)
    module = max((each for each in modules if name.startswith(each)), key=len, default="")
    return name.removeprefix(module) if name.isidentifier() else ""


def _above(path: str) -> Iterator[str]:
    """Yields the paths of all modules that a module is in."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _parts(cost: LayerCost) -> Iterator[LayerCost]:
    """Yields a layer's cost; of what is outside of layers, the optimizer's step apart."""
    if cost.name or "optimizer" not in cost.before:
        yield cost
        return
    whole = (cost.before, cost.after)
    rest = [{phase: each for phase, each in part.items() if phase != "optimizer"} for part in whole]
    step = [{phase: each for phase, each in part.items() if phase == "optimizer"} for part in whole]
    if any(rest):
        yield replace(cost, before=rest[0], after=rest[1])
    yield LayerCost("", OPTIMIZER, step[0], step[1])
