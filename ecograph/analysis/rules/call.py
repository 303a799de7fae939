"""What a rule is given: one call in a captured graph, with the dimensions of everything it takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ecograph.analysis.dimensions import Dim, Equal, Fact, Stop
from ecograph.analysis.products import function_of
from ecograph.capture.graph import example, module_path

_MODULES = ("torch", "_operator", "operator", "builtins")


def function_name(node: fx.Node) -> str:
    """Returns the name of the torch function a node calls, the same for all of its spellings.

    ``torch.add``, ``Tensor.add_``, ``operator.iadd`` and ``Tensor.__add__`` are all ``"add"``. Functions that are not
    torch's own give ``""``.
    """
    function = function_of(node)
    name = getattr(function, "__name__", "")
    module = getattr(function, "__module__", None)
    if not isinstance(function, type(Tensor.add)) and module is not None and module.split(".")[0] not in _MODULES:
        return ""
    if module == "_operator" and name.startswith("i") and name not in ("invert", "is_", "is_not", "inv", "index"):
        name = name[1:]  # iadd
    return name.strip("_") if name.startswith("__") else name.rstrip("_")


def is_tensor(value: Any) -> bool:
    """Whether an argument is a node that gives one tensor."""
    return example(value) is not None


@dataclass
class Call:
    """One call.

    Attributes:
        node: where it is called.
        name: the function's name, as in :func:`function_name`.
        sizes: filled with the size of every axis that a rule names.
    """

    node: fx.Node
    name: str
    sizes: dict[Dim, int] = field(default_factory=dict)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Returns an argument by position or name."""
        if position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    @property
    def tensors(self) -> list[fx.Node]:
        """The tensors among the arguments, lists included."""
        leaves = pytree.tree_leaves((self.node.args, dict(self.node.kwargs)))
        return list(dict.fromkeys(leaf for leaf in leaves if is_tensor(leaf)))

    @property
    def input(self) -> list[Dim]:
        """The dimensions of the first argument."""
        return dims_of(self.arg(0, "input"))

    @property
    def output(self) -> list[Dim]:
        """The dimensions of the result; of the first one, where there are several."""
        return dims_of(self.node) or (self.outputs or [[]])[0]

    @property
    def outputs(self) -> list[list[Dim]]:
        """The dimensions of each of several results."""
        value = self.node.meta.get("example_value")
        if not isinstance(value, (tuple, list)):
            return []
        return [dims_of(self.node, i) for i in range(len(value))]

    def size(self, dim: Dim) -> int:
        """Returns the size of a dimension."""
        return self.sizes[dim] if dim in self.sizes else size_of(dim)

    def axis(self, name: str, size: int) -> Dim:
        """Returns an axis that no tensor of this call has as a dimension, such as the groups of a convolution."""
        dim = Dim(self.node, name)
        self.sizes[dim] = size
        return dim

    def fixed(self, name: str, size: int, why: str) -> tuple[Dim, Stop]:
        """Returns an axis that exists only to describe others, and the fact that it cannot be sliced."""
        dim = self.axis(name, size)
        return dim, Stop((dim,), why, structural=True)

    def where(self) -> str:
        """Names the call for people: ``"softmax in blocks.0.attn"``."""
        path = module_path(self.node)
        return f"{self.name or _spelled(self.node)} in {path}" if path else self.name or _spelled(self.node)


def _spelled(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def dims_of(node: Any, item: int | None = None) -> list[Dim]:
    """Returns the dimensions of what a node gives; none where that is not a tensor."""
    if not isinstance(node, fx.Node):
        return []
    value = node.meta.get("example_value")
    if item is not None and isinstance(value, (tuple, list)):
        value = value[item]
    return [Dim(node, axis, item) for axis in range(value.dim())] if isinstance(value, torch.Tensor) else []


def size_of(dim: Dim) -> int:
    """Returns the size of a tensor's dimension."""
    value = dim.node.meta["example_value"]
    return int((value if dim.item is None else value[dim.item]).shape[dim.axis])


def same(left: Iterable[Dim], right: Iterable[Dim]) -> Iterator[Fact]:
    """Dimensions that are equal one by one."""
    for a, b in zip(left, right, strict=True):
        yield Equal((a,), (b,))


def broadcast(call: Call, source: list[Dim], target: list[Dim]) -> Iterator[Fact]:
    """The dimensions of an operand and of a result it is broadcast to: equal where both have the same size."""
    for a, b in zip(reversed(source), reversed(target), strict=False):
        if call.size(a) == call.size(b) != 1:
            yield Equal((a,), (b,))
