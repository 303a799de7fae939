"""Bytes that an operation moves: its operands, read once, and its results, written once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

#: Operations that read as much of their first operand as they give back: rows of a table, chosen elements.
CHOOSING = frozenset({"embedding", "index_select", "gather", "index", "_unsafe_index", "take", "masked_select"})

#: Operations whose first operand is written to in part, as much of it as comes in.
PLACING = frozenset({"index_copy", "index_add", "index_put", "_index_put_impl", "scatter", "scatter_add"})


def nbytes(tensor: Tensor) -> int:
    """Returns the bytes of a tensor that are really there: those of an expanded dimension once."""
    if tensor.layout != torch.strided:
        return tensor.untyped_storage().nbytes() if tensor.layout == torch.jagged else 0
    distinct = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0)
    return math.prod(distinct) * tensor.element_size()


def tensors(tree: Any) -> list[Tensor]:
    """Returns every tensor in arguments or results, once."""
    found = {id(leaf): leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)}
    return list(found.values())


def traffic(name: str, func: torch._ops.OpOverload, args: Any, kwargs: Any, out: Any) -> tuple[int, int]:
    """Returns the bytes that a call reads and writes.

    Args:
        name: of the operation, without "aten." and overload.
        func: the operation.
        args: its operands.
        kwargs: the rest of them.
        out: what it returned.
    """
    operands, results = tensors((args, kwargs)), tensors(out)
    written = _total(results)
    base = name.removesuffix("_") if not name.endswith("__") else name
    if base in CHOOSING:
        return written + _total(operands[1:]), written
    if func._schema.is_mutable:
        mutated = _mutated(func, args, kwargs)
        own = {id(tensor) for tensor in mutated}
        others = [tensor for tensor in operands if id(tensor) not in own]
        if base in PLACING:
            placed = _total(others[-1:])
            return _total(others) + placed, placed
        fresh = [tensor for tensor in results if id(tensor) not in own]
        overwritten = base in ("copy", "zero", "fill", "uniform", "normal", "bernoulli", "random")
        return _total(others) + (0 if overwritten else _total(mutated)), _total(mutated) + _total(fresh)
    return _total(operands), written


def _mutated(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Returns the operands that a call writes to."""
    found: list[Tensor] = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += tensors(value)
    return found


def _total(found: Iterable[Tensor]) -> int:
    return sum(map(nbytes, found))
