"""How a graph that is a whole model is called, and what it returns.

A captured graph takes tensors and returns a tuple of tensors. The model takes arguments by name and returns a tensor, a
tuple or a dict. The two are matched by identity: the tensors that went in and came out while the graph was recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ecograph.capture.graph import BUFFER, PARAMETER, Graph
from ecograph.capture.inputs import Inputs


@dataclass(frozen=True)
class Interface:
    """A whole graph's inputs and outputs.

    Attributes:
        inputs: the model's argument name for every placeholder that is not a parameter or buffer.
        unused: arguments that the graph does not read, such as a flag.
        result: what the model returns, with a node of the graph in place of every tensor.
        problem: why the graph cannot stand for the model, or "".
    """

    inputs: Mapping[fx.Node, str]
    unused: tuple[str, ...] = ()
    result: Any = None
    problem: str = ""


def find_interface(
    model: nn.Module, inputs: Inputs, graph: Graph, arguments: Sequence[Any], outputs: Any, result: Any
) -> Interface:
    """Matches what a model was given and returned with what its one graph was given and returned.

    Args:
        model: the recorded copy.
        inputs: what it was called with.
        graph: the graph.
        arguments: what the graph was called with, one for each placeholder.
        outputs: what the graph returned.
        result: what the model returned.
    """
    args, kwargs = inputs
    try:
        named = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError) as error:
        return Interface({}, problem=f"its arguments have no names: {error}")
    by_tensor = {id(value): name for name, value in named.items() if isinstance(value, torch.Tensor)}
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    found: dict[fx.Node, str] = {}
    for node, argument in zip(placeholders, arguments, strict=True):
        if PARAMETER in node.meta or BUFFER in node.meta:
            continue
        if id(argument) not in by_tensor:
            return Interface({}, problem=f"it reads {node.name}, which is not an argument of its own")
        found[node] = by_tensor[id(argument)]
    sources = {id(argument): node for node, argument in zip(placeholders, arguments, strict=True)}
    (returned,) = next(node for node in graph.nodes if node.op == "output").args
    if not isinstance(returned, (tuple, list)):
        return Interface({}, problem="its graph returns no tuple")
    for node, value in zip(returned, outputs, strict=True):
        if isinstance(node, fx.Node):
            sources[id(value)] = node
    unused = tuple(name for name in named if name not in found.values())
    try:
        return Interface(found, unused, _with_nodes(result, sources))
    except ValueError as error:
        return Interface({}, problem=str(error))


def _with_nodes(value: Any, sources: Mapping[int, fx.Node]) -> Any:
    """Returns ``value`` with nodes for tensors; containers become plain tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        if id(value) not in sources:
            raise ValueError("it returns a tensor that its graph did not compute")
        return sources[id(value)]
    if isinstance(value, Mapping):
        return {key: _with_nodes(item, sources) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_with_nodes(item, sources) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"it returns a {type(value).__name__}")
