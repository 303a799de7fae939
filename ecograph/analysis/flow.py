"""What a node's value depends on where the graph's edges do not say: mutation, and nested graphs.

``scores[:, 1:] += bias`` is, in an fx graph, a ``setitem`` whose result nobody uses. Whoever reads ``scores``
later depends on it all the same, and so does whoever reads another view of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from torch import fx

from ecograph.analysis.products import function_of
from ecograph.capture.graph import Graph, example

#: A node, the graph it is in, and the nodes its value depends on.
Step = tuple[Graph, fx.Node, tuple[fx.Node, ...]]

_IN_PLACE = {
    operator.setitem,
    *(
        getattr(operator, name)
        for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul")
    ),
    *(getattr(operator, name) for name in ("iand", "ior", "ixor", "ilshift", "irshift")),
}

# Only asked where shapes (and with them storages) are unknown. Copies among them do no harm: flow errs on the
# safe side.
_VIEWS = frozenset(
    [
        "getitem",
        "__getitem__",
        "view",
        "view_as",
        "reshape",
        "reshape_as",
        "transpose",
        "permute",
        "movedim",
        "swapaxes",
    ]
    + [
        "swapdims",
        "t",
        "T",
        "mT",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "narrow",
    ]
    + ["select", "chunk", "split", "unbind", "unfold", "diagonal", "detach", "contiguous"]
)


def flow(graph: Graph) -> Iterator[Step]:
    """Yields every node, those of nested graphs inside their caller, in execution order."""
    return _steps(graph, {}, _Memory())


class _Memory:
    """Which nodes share memory, and who wrote to it last."""

    def __init__(self) -> None:
        self._roots: dict[fx.Node, Any] = {}
        self._writers: dict[Any, fx.Node] = {}

    def root(self, node: fx.Node) -> Any:
        """Something that two nodes have in common where one is a view of the other."""
        return self._roots.get(node, node)

    def writer(self, node: fx.Node) -> fx.Node | None:
        """The node that last changed what ``node`` holds after it was computed, if any did."""
        return self._writers.get(self.root(node))

    def note(self, node: fx.Node, aliases: tuple[fx.Node, ...]) -> None:
        """Records what ``node`` shares memory with and what it writes to."""
        target = mutated(node)
        if target is not None:
            self._roots[node] = self.root(target)
            self._writers[self.root(target)] = node
        elif (storage := _storage(node)) is not None:
            self._roots[node] = storage
        elif aliases:
            self._roots[node] = self.root(aliases[0])


def _storage(node: fx.Node) -> int | None:
    """Returns the address of the memory behind a node's example, where there is one with memory."""
    value = example(node)
    try:
        return None if value is None else value.untyped_storage()._cdata
    except NotImplementedError:  # a tensor inside torch.func.vmap, or a sparse one
        return None


def mutated(node: fx.Node) -> fx.Node | None:
    """Returns the node whose value ``node`` changes in place, if there is one."""
    out = node.kwargs.get("out")
    if isinstance(out, fx.Node):
        return out
    if (
        node.op not in ("call_function", "call_method")
        or not node.args
        or not isinstance(node.args[0], fx.Node)
    ):
        return None
    function = function_of(node)
    name = getattr(function, "__name__", str(node.target))
    in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
    return node.args[0] if in_place or function in _IN_PLACE else None


def _is_view(node: fx.Node) -> bool:
    name = node.args[1] if node.target is getattr else getattr(node.target, "__name__", node.target)
    return node.op in ("call_function", "call_method") and name in _VIEWS


def _steps(graph: Graph, handed_in: dict[fx.Node, tuple[fx.Node, ...]], memory: _Memory) -> Iterator[Step]:
    for node in graph.nodes:
        inputs = tuple(node.all_input_nodes)
        if node.op == "placeholder":
            depends = handed_in.get(node, ())
            memory.note(node, depends)
        else:
            writers = (memory.writer(n) for n in inputs)
            depends = (*inputs, *(writer for writer in writers if writer is not None))
            memory.note(node, inputs[:1] if _is_view(node) else ())
        results: tuple[fx.Node, ...] = ()
        for nested in graph.nested.get(node, []):
            # Where it is unknown which value becomes which placeholder, each may become any.
            sources = {p: inputs if source is None else (source,) for p, source in nested.inputs.items()}
            yield from _steps(nested.graph, sources, memory)
            results += tuple(n for n in nested.graph.nodes if n.op == "output")
        yield graph, node, results or depends
