"""What capture returns: fx graphs in one language, with the facts every later stage asks for.

The language is torch-level functions (``F.linear``, ``torch.addmm``, ``F.conv2d``, ``Tensor.view``, ...).
These facts hang on the nodes, under the keys below, so that passes may copy and edit graphs with plain fx
tools:

* ``MODULE``: on every node, the path of the innermost module in whose forward the call happens;
* ``PARAMETER`` / ``BUFFER``: on placeholders and ``get_attr`` nodes, the qualified name of the tensor they
  stand for;
* ``"example_value"``: the fake tensor (or tuple of them) a node gave, where the capture knew shapes;
* ``RECOMPUTED``: on nodes under activation checkpointing, which the backward computes a second time;
* ``OWN_BACKWARD``: on nodes inside an ``autograd.Function``, whose backward is not what autograd would
  derive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

if TYPE_CHECKING:
    from ecograph.capture.interface import Interface

MODULE = "ecograph_module"
PARAMETER = "ecograph_parameter"
BUFFER = "ecograph_buffer"
RECOMPUTED = "ecograph_recomputed"
OWN_BACKWARD = "ecograph_own_backward"


@dataclass
class Graph:
    """One captured graph.

    Attributes:
        module: the graph, as a GraphModule. Parameters are placeholders (Dynamo) or ``get_attr`` (symbolic).
        method: ``"dynamo"`` or ``"symbolic"``.
        path: where in the model this graph starts: ``""`` for the whole model.
        nested: graphs that a node of this one calls as a whole: the body of a checkpointed region, the
            forward of an ``autograd.Function``, the branches of ``torch.cond``.
    """

    module: fx.GraphModule
    method: str
    path: str = ""
    nested: dict[fx.Node, list[Nested]] = field(default_factory=dict)

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The nodes, in execution order."""
        return iter(self.module.graph.nodes)

    @property
    def shapes(self) -> bool:
        """Whether it ran, so that it knows the shape of every tensor."""
        return self.method == "dynamo"


@dataclass
class Nested:
    """A graph that a node of another graph calls.

    Attributes:
        graph: the graph.
        inputs: for each of its placeholders, the node of the calling graph that is handed in; None where
            unknown.
        backward: for the forward of an ``autograd.Function``, the graph of its backward.
    """

    graph: Graph
    inputs: dict[fx.Node, fx.Node | None]
    backward: fx.GraphModule | None = None


@dataclass(frozen=True)
class Part:
    """How one part of the model was captured, or why it was not.

    Attributes:
        path: the module's path; ``""`` is the whole model.
        method: ``"dynamo"``, ``"symbolic"`` or ``"none"``.
        note: for ``"none"``, and for a capture in pieces, the reason in one line.
    """

    path: str
    method: str
    note: str = ""


@dataclass
class Capture:
    """Everything capture found out about a model.

    Attributes:
        graphs: in execution order.
        parts: how each part was captured, and why it was cut there.
        cut: whether some of the model's forward ran between the graphs, out of sight.
        interface: where one graph is the whole model, how it is called and what it returns.
    """

    graphs: list[Graph] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    cut: bool = False
    interface: Interface | None = None

    @property
    def shapes(self) -> bool:
        """Whether the graphs of what ran know the shape of every tensor."""
        return bool(self.graphs) and self.graphs[0].method == "dynamo"


def unmet_parameters(model: nn.Module, capture: Capture) -> set[int]:
    """Returns the ids of the parameters of ``model`` that no graph uses."""
    nodes = (node for graph in capture.graphs for node in graph.nodes)
    met = {id(model.get_parameter(node.meta[PARAMETER])) for node in nodes if PARAMETER in node.meta}
    return {id(p) for p in model.parameters()} - met


def module_path(node: fx.Node) -> str:
    """Returns the path of the innermost module in whose forward ``node`` was called."""
    return str(node.meta.get(MODULE, ""))


def parameter_name(node: fx.Node) -> str | None:
    """Returns the qualified name of the parameter that ``node`` stands for, or None."""
    return node.meta.get(PARAMETER)


def example(node: Any) -> torch.Tensor | None:
    """Returns the example tensor of ``node``, or None where it is unknown or not a tensor."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return value if isinstance(value, torch.Tensor) else None


def shape(node: Any) -> tuple[int, ...] | None:
    """Returns the shape of the tensor that ``node`` gave, or None where it is unknown."""
    value = example(node)
    return None if value is None else tuple(int(n) for n in value.shape)
