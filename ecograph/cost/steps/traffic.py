"""Bytes that an operation moves: what it reads of its operands, once, and its results, written once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.steps.kinds import name_of

#: Operations that read as much of their first operand as they give back: rows of a table, chosen elements.
CHOOSING = frozenset({"embedding", "index_select", "gather", "index", "_unsafe_index", "take", "masked_select"})

#: Operations whose first operand is written to in part: which argument has as many elements as that part.
PLACING = {"index_copy": 3, "index_add": 3, "scatter": 2, "scatter_add": 2, "scatter_reduce": 2}

#: The same, where the part is what the indices (the second argument) choose.
PUTTING = frozenset({"index_put", "_index_put_impl", "_unsafe_index_put", "index_fill"})

#: Operations in place that do not look at what was there before.
OVERWRITING = frozenset({"copy", "zero", "fill", "_foreach_copy", "_foreach_zero"}) | {
    *("uniform", "normal", "bernoulli", "random", "exponential", "log_normal")
}

#: Operations that want only the shape of some operands: which ones.
SHAPE_ONLY: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(["zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"], (0,)),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty"], (0,)),
    **dict.fromkeys(["nll_loss_backward", "nll_loss2d_backward", "avg_pool2d_backward", "avg_pool3d_backward"], (1,)),
    **dict.fromkeys(["_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"], (1,)),
    **dict.fromkeys(["max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward"], (1,)),
    **dict.fromkeys(["adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"], (1,)),
}


def nbytes(tensor: Tensor) -> int:
    """Returns the bytes of a tensor that are really there: those of an expanded dimension once."""
    if tensor.layout != torch.strided:
        return tensor.untyped_storage().nbytes() if tensor.layout == torch.jagged else 0
    elements: int = tensor.numel()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if elements else ():
        if stride == 0:
            elements //= size
    return elements * tensor.element_size()


def tensors(tree: Any) -> list[Tensor]:
    """Returns every tensor in arguments or results, once."""
    if isinstance(tree, Tensor):
        return [tree]
    found: dict[int, Tensor] = {}
    _collect(tree, found)
    return list(found.values())


def _collect(tree: Any, found: dict[int, Tensor]) -> None:
    for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ():
        if isinstance(each, Tensor):
            found[id(each)] = each
        elif isinstance(each, (tuple, list, dict)):
            _collect(each, found)


def traffic(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: Sequence[Tensor], results: Sequence[Tensor]
) -> tuple[int, int]:
    """Returns the bytes that a call reads and writes.

    Args:
        func: the operation.
        args: its operands.
        kwargs: the rest of them.
        operands: the tensors in both.
        results: the tensors that it returned.
    """
    written = _total(results)
    name = _base_name(func)
    if name in ("nll_loss_forward", "nll_loss2d_forward"):  # of every row, the element that the target names
        return args[1].numel() * args[0].element_size() + _total(operands[1:]), written
    if name in CHOOSING:
        return nbytes(results[0]) + _total(operands[1:]), written
    if name in SHAPE_ONLY:
        unread = {id(args[position]) for position in SHAPE_ONLY[name] if position < len(args)}
        operands = [tensor for tensor in operands if id(tensor) not in unread]
    mutated = _mutated(func, args, kwargs)
    if not mutated:
        return _total(operands), written
    own = {id(tensor) for tensor in mutated}
    others = _total(tensor for tensor in operands if id(tensor) not in own)
    fresh = _total(tensor for tensor in results if id(tensor) not in own)
    if name in PLACING or name in PUTTING:
        placed = _placed(name, args) * mutated[0].element_size()
        adds = name in ("index_add", "scatter_add", "scatter_reduce") or (len(args) > 3 and args[3] is True)
        return others + placed * adds, placed
    overwritten = name in OVERWRITING or _has_out(func)
    return others + _total(mutated) * (not overwritten), _total(mutated) + fresh


def _placed(name: str, args: tuple[Any, ...]) -> int:
    """Returns how many elements of its first operand a call writes to, as far as shapes say it."""
    if name in PLACING:
        return int(args[PLACING[name]].numel())
    whole = args[0]
    if name == "index_fill":
        return int(whole.numel() // max(whole.shape[args[1]], 1) * args[2].numel())
    indices = [each for each in args[1] if each is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        return int(whole.numel())  # data decides; this is the most
    chosen: torch.Size = torch.broadcast_shapes(*(index.shape for index in indices))  # type: ignore[no-untyped-call]
    kept = [size for size, index in zip(whole.shape, args[1], strict=False) if index is None]
    return math.prod([*chosen, *kept, *whole.shape[len(args[1]) :]])


@cache
def _base_name(func: Any) -> str:
    """Returns an operation's name without "aten." and without the underscore of one in place."""
    name = name_of(func).removeprefix("aten.")
    return name if name.endswith("__") else name.removesuffix("_")


@cache
def writes_to(func: Any) -> tuple[tuple[int, str], ...]:
    """Returns place and name of the operands that an operation writes to."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@cache
def _has_out(func: Any) -> bool:
    return any(argument.is_out for argument in func._schema.arguments)


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Returns the operands that a call writes to."""
    found: dict[int, Tensor] = {}
    for position, name in writes_to(func):
        if name == "grads" and kwargs.get("grad_scale") is None:
            continue  # a fused optimizer scales them only where it is told a scale
        value = args[position] if position < len(args) else kwargs.get(name)
        if isinstance(value, Tensor):
            found[id(value)] = value
        elif value is not None:
            _collect(value, found)
    return list(found.values())


def _total(found: Iterable[Tensor]) -> int:
    return sum(map(nbytes, found))
