"""Calls that only move elements: views, permutations, pieces and joins."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

import torch

from ecograph.analysis.dimensions import Dim, Equal, Fact, Joined, Stop
from ecograph.analysis.rules.call import Call, broadcast, dims_of, is_tensor, same

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def reshaped(call: Call) -> Iterator[Fact]:
    """The same elements in the same order: each smallest run of dimensions that spans the same space."""
    before = [dim for dim in call.input if call.size(dim) != 1]
    after = [dim for dim in call.output if call.size(dim) != 1]
    if math.prod(map(call.size, before)) != math.prod(map(call.size, after)):
        return  # a view as another dtype
    if call.name in ("view_as", "reshape_as"):
        yield from same(dims_of(call.arg(1, "other")), call.output)
    while before and after:
        left, right = [before.pop(0)], [after.pop(0)]
        while (a := math.prod(map(call.size, left))) != (b := math.prod(map(call.size, right))):
            (left if a < b else right).append((before if a < b else after).pop(0))
        yield Equal(tuple(left), tuple(right))


def permuted(call: Call) -> Iterator[Fact]:
    """The same dimensions in another order, found by permuting a small tensor whose sizes tell which is which."""
    sizes = _PRIMES[: len(call.input)]
    args = tuple(torch.empty(sizes, device="meta") if arg is call.arg(0, "input") else arg for arg in call.node.args)
    kwargs = {k: v for k, v in call.node.kwargs.items() if k != "input"}
    args = args or (torch.empty(sizes, device="meta"),)
    function: Any = call.node.target
    after = getattr(args[0], function)(*args[1:], **kwargs) if isinstance(function, str) else function(*args, **kwargs)
    for size, dim in zip(after.shape, call.output, strict=True):
        yield Equal((call.input[sizes.index(size)],), (dim,))


def attribute(call: Call) -> Iterator[Fact]:
    """``x.T`` and the like are permutations, ``x.data`` is the same tensor."""
    if call.arg(1, "name") in ("T", "mT", "H", "mH"):
        yield from permuted(call)
    elif call.arg(1, "name") in ("data", "real"):
        yield from same(call.input, call.output)


def expanded(call: Call) -> Iterator[Fact]:
    """Dimensions of size 1 are repeated without a copy: the result's are new ones."""
    yield from broadcast(call, call.input, call.output)
    if call.name == "expand_as":
        yield from same(dims_of(call.arg(1, "other")), call.output)
    padded = [None] * (len(call.output) - len(call.input)) + list(call.input)
    for source, dim in zip(padded, call.output, strict=True):
        if source is None or call.size(source) == 1:
            yield Equal((dim,), (dim,))  # stands for itself: nothing else shrinks with it


def repeated(call: Call) -> Iterator[Fact]:
    """``repeat``: whole copies of the input, one after the other."""
    for source, dim in zip(reversed(call.input), reversed(call.output), strict=False):
        yield from _times(call, dim, source, outside=True)


def interleaved(call: Call) -> Iterator[Fact]:
    """``repeat_interleave``: each element several times."""
    axis = call.arg(2, "dim")
    if not isinstance(call.arg(1, "repeats"), int) or axis is None:
        return
    for i, (source, dim) in enumerate(zip(call.input, call.output, strict=True)):
        if i == axis % len(call.input):
            yield from _times(call, dim, source, outside=False)
        else:
            yield Equal((source,), (dim,))


def _times(call: Call, dim: Dim, source: Dim, *, outside: bool) -> Iterator[Fact]:
    times = call.size(dim) // max(call.size(source), 1)
    if times == 1:
        yield Equal((source,), (dim,))
    elif call.size(source) > 1:
        copies, stop = call.fixed(f"copies {dim.axis}", times, f"they are copies made by {call.where()}")
        yield stop
        yield Equal((dim,), (copies, source) if outside else (source, copies))


def pieces(call: Call) -> Iterator[Fact]:
    """``chunk`` and ``split``: equal pieces are a factor of the dimension, unequal ones are segments of it."""
    axis = int(call.arg(2, "dim", 0)) % len(call.input)
    for output in call.outputs:
        yield from same(*(dims[:axis] + dims[axis + 1 :] for dims in (call.input, output)))
    whole, parts = call.input[axis], [output[axis] for output in call.outputs]
    if call.name == "tensor_split" and not isinstance(call.arg(1, "indices_or_sections"), int):
        return  # places in the whole dimension: those in a slice would be others
    if len({call.size(part) for part in parts}) > 1:
        if call.name in ("split", "split_with_sizes"):  # the others find the sizes themselves
            yield Joined(whole, tuple(parts))
    else:
        count, stop = call.fixed("pieces", len(parts), f"it is taken apart by {call.where()}")
        yield stop
        for part in parts:
            yield Equal((whole,), (count, part))


def unbound(call: Call) -> Iterator[Fact]:
    """``unbind``: the dimension is taken apart, the others stay."""
    axis = int(call.arg(1, "dim", 0)) % len(call.input)
    yield Stop((call.input[axis],), f"it is taken apart by {call.where()}", structural=True)
    for output in call.outputs:
        yield from same(call.input[:axis] + call.input[axis + 1 :], output)


def selected(call: Call) -> Iterator[Fact]:
    """``select``: one index of a dimension; the others stay."""
    axis = int(call.arg(1, "dim")) % len(call.input)
    yield Stop((call.input[axis],), f"it is taken apart by {call.where()}", structural=True)
    yield from same(call.input[:axis] + call.input[axis + 1 :], call.output)


def narrowed(call: Call) -> Iterator[Fact]:
    """``narrow``: a part of a dimension; the others stay."""
    axis = int(call.arg(1, "dim")) % len(call.input)
    yield from same(*(dims[:axis] + dims[axis + 1 :] for dims in (call.input, call.output)))


def item(call: Call) -> Iterator[Fact]:
    """``x[...]``, of a tensor or of one of several results."""
    source, index = call.node.args
    if not is_tensor(source):
        if isinstance(index, int):
            count = len(source.meta["example_value"])  # type: ignore[union-attr]
            yield from same(dims_of(source, index % count), call.output)
        return
    index = index if isinstance(index, tuple) else (index,)
    if any(is_tensor(i) or isinstance(i, (list, torch.Tensor)) for i in index):
        yield from _looked_up(call, index)
        return
    used = sum(i is not None and i is not Ellipsis for i in index)
    full = [slice(None)] * (len(call.input) - used)
    place = next((n for n, i in enumerate(index) if i is Ellipsis), len(index))
    index = (*index[:place], *full, *index[place + 1 :])
    source_dims, result_dims = iter(call.input), iter(call.output)
    for i in index:
        if i is None:
            next(result_dims)
        elif isinstance(i, slice):
            before, after = next(source_dims), next(result_dims)
            if i.step in (None, 1) and i.start in (None, 0) and call.size(before) == call.size(after):
                yield Equal((before,), (after,))
        else:
            yield Stop((next(source_dims),), f"it is taken apart by {call.where()}", structural=True)


def _looked_up(call: Call, index: tuple[Any, ...]) -> Iterator[Fact]:
    """One tensor of indices in the first dimension: the others stay."""
    if len(index) == 1:
        rest = len(call.input) - 1
        yield from same(call.input[1:], call.output[len(call.output) - rest :])
        yield from same(dims_of(index[0]), call.output[: len(call.output) - rest])


def joined(call: Call) -> Iterator[Fact]:
    """``cat``: one dimension holds the others, one after the other."""
    tensors = [tensor for tensor in call.arg(0, "tensors") if len(dims_of(tensor)) == len(call.output)]
    axis = int(call.arg(1, "dim", 0)) % len(call.output)
    for tensor in tensors:
        yield from same(*(dims[:axis] + dims[axis + 1 :] for dims in (dims_of(tensor), call.output)))
    yield Joined(call.output[axis], tuple(dims_of(tensor)[axis] for tensor in tensors))


def stacked(call: Call) -> Iterator[Fact]:
    """``stack``: a new dimension."""
    axis = int(call.arg(1, "dim", 0)) % len(call.output)
    yield Stop((call.output[axis],), f"it is made by {call.where()}", structural=True)
    for tensor in call.arg(0, "tensors"):
        yield from same(dims_of(tensor), call.output[:axis] + call.output[axis + 1 :])


def rolled(call: Call) -> Iterator[Fact]:
    """``roll`` and ``flip``: elements move along some dimensions."""
    moved = call.arg(2, "dims") if call.name == "roll" else call.arg(1, "dims")
    yield from _all_but(call, moved)


def padded(call: Call) -> Iterator[Fact]:
    """Dimensions that are not padded stay."""
    for before, after in zip(call.input, call.output, strict=True):
        if call.size(before) == call.size(after):
            yield Equal((before,), (after,))


def _all_but(call: Call, moved: Any) -> Iterator[Fact]:
    if moved is None:
        return
    axes = {axis % len(call.input) for axis in ((moved,) if isinstance(moved, int) else moved)}
    for i, (before, after) in enumerate(zip(call.input, call.output, strict=True)):
        if i not in axes:
            yield Equal((before,), (after,))


RULES = {
    **dict.fromkeys([
        "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as",
    ], reshaped),  # fmt: skip
    **dict.fromkeys(["permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint"], permuted),
    "getattr": attribute,
    **dict.fromkeys(["expand", "expand_as", "broadcast_to"], expanded),
    "repeat": repeated,
    "repeat_interleave": interleaved,
    **dict.fromkeys(["chunk", "split", "split_with_sizes", "tensor_split"], pieces),
    "unbind": unbound,
    "select": selected,
    "narrow": narrowed,
    operator.getitem.__name__: item,
    **dict.fromkeys(["cat", "concat", "concatenate"], joined),
    "stack": stacked,
    **dict.fromkeys(["roll", "flip"], rolled),
    "pad": padded,
}
