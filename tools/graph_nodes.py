"""What the nodes of a captured graph are, in words: operation, layer, shape, and the line of the model's source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx

    from ecograph.capture import Graph

_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)


@dataclass(frozen=True)
class NodeFacts:
    """A node of a graph.

    Attributes:
        name: in the graph's code.
        operation: what it calls, such as ``"conv2d"``; ``"input"`` and ``"output"`` for what goes in and out.
        layer: path of the module in whose forward it is called.
        shape: of what it gives; None where unknown.
        source: ``"file:line"`` in the model's code, or "".
        inputs: names of the nodes that it takes, parameters and buffers left out.
    """

    name: str
    operation: str
    layer: str
    shape: tuple[int, ...] | None = None
    source: str = ""
    inputs: tuple[str, ...] = ()


def describe(graph: Graph) -> list[NodeFacts]:
    """Returns the nodes of a graph in order, without those that stand for parameters and buffers."""
    from ecograph.capture.graph import module_path, shape

    held = {node for node in graph.nodes if _is_held(node)}
    return [
        NodeFacts(
            name=node.name,
            operation=_operation(node),
            layer=_layer_of_user(node) if _has_no_place(node) else module_path(node),
            shape=shape(node),
            source=source_of(str(node.meta.get("stack_trace") or "")),
            inputs=tuple(each.name for each in node.all_input_nodes if each not in held),
        )
        for node in graph.nodes
        if node not in held
    ]


def by_name(stages: Iterable[Iterable[NodeFacts]]) -> dict[str, NodeFacts]:
    """Returns the nodes of several stages of a graph; of those with the same name the first, whose facts are known."""
    found: dict[str, NodeFacts] = {}
    for nodes in stages:
        for node in nodes:
            found.setdefault(node.name, node)
    return found


def source_of(stack_trace: str) -> str:
    """Returns the innermost line of a stack trace that is the model's own, as ``"file:line"``, or ""."""
    import torch

    import ecograph

    not_the_model = [Path(package.__file__ or "").parent for package in (torch, ecograph)]
    frames = [(Path(found["file"]), found["line"]) for found in _FRAME.finditer(stack_trace)]
    for file, line in reversed(frames):
        if not any(folder in file.parents for folder in not_the_model):
            return f"{_short(file)}:{line}"
    return ""


def _short(path: Path) -> str:
    """Returns a path as seen from here or from the installed packages: a report that is shared tells no more."""
    _, installed, inside = path.as_posix().rpartition("/site-packages/")
    if installed:
        return inside
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return "/".join(path.parts[-2:])


def _is_held(node: fx.Node) -> bool:
    from ecograph.capture.graph import BUFFER, PARAMETER

    return PARAMETER in node.meta or BUFFER in node.meta or node.op == "get_attr"


def _has_no_place(node: fx.Node) -> bool:
    """Whether a pass put the node in without saying where it belongs."""
    from ecograph.capture.graph import MODULE

    return node.op not in ("placeholder", "output") and MODULE not in node.meta


def _layer_of_user(node: fx.Node) -> str:
    from ecograph.capture.graph import MODULE

    return next((str(user.meta[MODULE]) for user in _users(node) if MODULE in user.meta), "")


def _users(node: fx.Node, most: int = 3) -> Iterator[fx.Node]:
    if most:
        for user in node.users:
            yield user
            yield from _users(user, most - 1)


def _operation(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "output":
        return "output"
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    if name == "fn":  # of torch's boolean_dispatch, such as max_pool2d
        stack = node.meta.get("source_fn_stack") or [("", None)]
        name = re.sub(r"_\d+$", "", str(stack[-1][0])) or name
    return str(name)
