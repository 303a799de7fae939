"""Graphs inside graphs: what Dynamo leaves as one node, with the operations in a graph of their own.

Activation checkpointing, ``autograd.Function`` and control flow become *higher-order operators*: a call whose
first arguments are graph modules and whose others are the values handed in. The products inside are products
of the model like any other, so these graphs are captured too.
"""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from ecograph.capture.graph import OWN_BACKWARD, RECOMPUTED, Graph, Nested


def find_nested(graph: Graph) -> None:
    """Fills ``graph.nested``, at every depth."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        arguments = pytree.tree_leaves((node.args, node.kwargs))
        bodies = [body for a in arguments if (body := _body(graph, a)) is not None]
        if not bodies:
            continue
        operands = [a for a in arguments if isinstance(a, fx.Node) and _body(graph, a) is None]
        operator = str(node.target)
        backward = bodies.pop() if "autograd_function" in operator else None
        for body in bodies:
            child = Graph(body, graph.method, graph.path)
            for inner in child.nodes:
                if "checkpoint" in operator or RECOMPUTED in node.meta:
                    inner.meta[RECOMPUTED] = True
                if backward is not None or OWN_BACKWARD in node.meta:
                    inner.meta[OWN_BACKWARD] = True
            graph.nested.setdefault(node, []).append(Nested(child, _handed_in(child, operands), backward))
            find_nested(child)


def _body(graph: Graph, argument: Any) -> fx.GraphModule | None:
    """Returns the graph module that an argument stands for, if it stands for one."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    value: Any = graph.module
    for name in str(argument.target).split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, fx.GraphModule) else None


def _handed_in(child: Graph, operands: list[fx.Node]) -> dict[fx.Node, fx.Node | None]:
    """Placeholders take the last operands in order; those in front (a predicate) steer the operator."""
    placeholders = [n for n in child.nodes if n.op == "placeholder"]
    unknown = len(placeholders) - len(operands)
    handed: list[fx.Node | None] = [None] * len(placeholders) if unknown > 0 else []
    if not handed:
        handed += operands[len(operands) - len(placeholders) :]
    return dict(zip(placeholders, handed, strict=True))
