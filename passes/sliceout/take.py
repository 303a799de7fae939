"""Taking the slice of a parameter, and putting a slice back.

Eagerly a slice is a view wherever it is one stretch of each dimension, and the gradient of the parameter is written
once: zeros, and the slice's gradient copied into them. (Two nested ``narrow`` would fill with zeros twice.) In compiled
code, where a start that changes would be a new program, the elements are gathered by an index that stays a tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ecograph.analysis.layout import Layout
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.rewrite.functions import mapped


@dataclass(frozen=True, eq=False)
class Cut:
    """How one dimension of a tensor is cut.

    Attributes:
        dim: the dimension.
        layout: what it is made up of.
        slices: the slice of each group; a segment whose group is not among them stays whole.
    """

    dim: int
    layout: Layout
    slices: Mapping[str, GroupSlice]

    @property
    def active(self) -> bool:
        """Whether anything is cut off now."""
        return any(_slice_of(segment.group, self.slices) is not None for segment in self.layout)

    def pieces(self) -> tuple[Piece, ...]:
        """Returns what is kept of the dimension now. Not for compiled code."""
        stamp = tuple((found.start, found.width) if found.active else None for found in self._concerned)
        pieces = self._pieces_at.get(stamp)
        if pieces is None:  # the draw stays for weight, bias and statistics, and while gradients add up
            pieces = _pieces(self)
            self._pieces_at.clear()
            self._pieces_at[stamp] = pieces
        return pieces

    @cached_property
    def _pieces_at(self) -> dict[tuple[tuple[int, int] | None, ...], tuple[Piece, ...]]:
        return {}

    @cached_property
    def _concerned(self) -> tuple[GroupSlice, ...]:
        found = (self.slices.get(segment.group) for segment in self.layout if segment.group)
        return tuple(dict.fromkeys(each for each in found if each is not None))


def _slice_of(group: str, slices: Mapping[str, GroupSlice]) -> GroupSlice | None:
    """Returns the slice in force on a segment, or None where it stays whole now."""
    found = slices.get(group) if group else None
    return found if found is not None and found.active else None


def full_size(layout: Layout) -> int:
    """Returns the elements of a whole dimension."""
    return sum(segment.size for segment in layout)


def size_now(layout: Layout, slices: Mapping[str, GroupSlice]) -> int:
    """Returns the elements of a dimension that are in force now."""
    total = 0
    for segment in layout:
        found = _slice_of(segment.group, slices)
        total += segment.size if found is None else segment.outer * found.width * segment.inner
    return total


def take(tensor: Tensor, cuts: Sequence[Cut], *, scale: bool = False, name: str = "a tensor") -> Tensor:
    """Returns the part of a tensor that is in force now.

    Args:
        tensor: the whole tensor.
        cuts: one for each dimension that may be cut.
        scale: multiply by the groups' :meth:`~.GroupSlice.scale` along these dimensions.
        name: what to call it in an error.

    Returns:
        ``tensor`` itself where nothing is cut; a view where every dimension keeps one stretch; else a copy.

    Raises:
        ValueError: where a dimension has another size than its layout.
    """
    for cut in cuts:
        if tensor.shape[cut.dim] != full_size(cut.layout):
            raise ValueError(
                f"dimension {cut.dim} of {name} has {tensor.shape[cut.dim]} elements, and had {full_size(cut.layout)} "
                "when the model was optimized: restore it, then optimize it again"
            )
    cuts = [cut for cut in cuts if cut.active]
    if not cuts:
        return tensor
    if has_torch_function((tensor,)):
        result: Tensor = handle_torch_function(take, (tensor,), tensor, cuts, scale=scale, name=name)
        return result
    if torch.compiler.is_compiling():
        for cut in cuts:
            tensor = _Gather.apply(tensor, cut.dim, _index(cut, tensor.device))  # type: ignore[no-untyped-call]
    else:
        box = _box(cuts, tensor.ndim)
        if torch.is_grad_enabled() and tensor.requires_grad and not mapped():
            tensor = _Take.apply(tensor, box)  # type: ignore[no-untyped-call]
        else:
            tensor = _take(tensor, box)
    return rescale(tensor, cuts) if scale else tensor


def rescale(part: Tensor, cuts: Sequence[Cut]) -> Tensor:
    """Returns what :func:`take` took, multiplied by the groups' scales along the dimensions of ``cuts``."""
    for cut in cuts:
        factor = _factor(cut, part.device)
        if isinstance(factor, Tensor):
            shape = [1] * part.ndim
            shape[cut.dim] = -1
            part = part * factor.to(part.dtype).view(shape)
        elif factor != 1:
            part = part * factor
    return part


def _factor(cut: Cut, device: torch.device) -> float | Tensor:
    """Returns the scale along a dimension that was cut: one number, or one for each element."""
    factors: list[tuple[int, float | Tensor]] = []
    for segment in cut.layout:
        found = _slice_of(segment.group, cut.slices)
        if found is None:
            factors.append((segment.size, 1.0))
            continue
        scale = found.scale(device)
        if isinstance(scale, Tensor):
            scale = scale.view(1, -1, 1).expand(segment.outer, -1, segment.inner).flatten()
        factors.append((segment.outer * found.width * segment.inner, scale))
    first = factors[0][1]
    if not isinstance(first, Tensor) and all(not isinstance(f, Tensor) and f == first for _, f in factors):
        return first
    parts = [f if isinstance(f, Tensor) else torch.full((size,), f, device=device) for size, f in factors]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@torch.no_grad()
def put(full: Tensor, cuts: Sequence[Cut], value: Tensor) -> None:
    """Writes ``value`` into the part of ``full`` that :func:`take` gives, in place."""
    cuts = [cut for cut in cuts if cut.active]
    if not torch.compiler.is_compiling():
        _assign(full, value, _box(cuts, full.ndim))
    elif not cuts:
        full.copy_(value)
    else:
        index = _index(cuts[0], full.device)
        if len(cuts) > 1:
            part = full.index_select(cuts[0].dim, index)
            put(part, cuts[1:], value)
            value = part
        full.index_copy_(cuts[0].dim, index, value)


def outside(full: Tensor, cuts: Sequence[Cut]) -> list[Tensor]:
    """Returns views that together are all of ``full`` but what :func:`take` gives."""
    return _outside(full, _box([cut for cut in cuts if cut.active], full.ndim))


class Piece(NamedTuple):
    """What is kept of a segment: ``length`` elements from ``begin`` on, in each of ``outer`` blocks of ``block``."""

    offset: int
    outer: int
    block: int
    begin: int
    length: int


#: For each dimension that is cut, the pieces that are kept.
Box = tuple[tuple[int, tuple[Piece, ...]], ...]


def _box(cuts: Sequence[Cut], ndim: int) -> Box:
    return tuple((cut.dim % ndim, cut.pieces()) for cut in cuts)


def _pieces(cut: Cut) -> tuple[Piece, ...]:
    pieces, offset = [], 0
    for segment in cut.layout:
        found = _slice_of(segment.group, cut.slices)
        if found is None:
            pieces.append(Piece(offset, 1, segment.size, 0, segment.size))
        else:
            block, length = segment.units * segment.inner, found.width * segment.inner
            pieces.append(Piece(offset, segment.outer, block, found.start * segment.inner, length))
        offset += segment.size
    return tuple(pieces)


def _index(cut: Cut, device: torch.device) -> Tensor:
    """Returns the elements kept of a dimension."""
    parts, offset = [], 0
    for segment in cut.layout:
        found = _slice_of(segment.group, cut.slices)
        if found is None:
            parts.append(torch.arange(offset, offset + segment.size, device=device))
        else:
            parts.append(found.index(segment.inner, segment.outer, device) + offset)
        offset += segment.size
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _split(tensor: Tensor, dim: int, sizes: tuple[int, int]) -> Tensor:
    """Returns a view with a dimension split in two; ``unflatten``, but known to every kind of vmap."""
    return tensor.view(*tensor.shape[:dim], *sizes, *tensor.shape[dim + 1 :])


def _blocks(tensor: Tensor, dim: int, piece: Piece) -> tuple[Tensor, int]:
    """Returns the segment of a piece, and the dimension of it that the piece is a stretch of."""
    segment = tensor.narrow(dim, piece.offset, piece.outer * piece.block)
    if piece.outer == 1:
        return segment, dim
    return _split(segment, dim, (piece.outer, piece.block)), dim + 1


def _take(tensor: Tensor, box: Box) -> Tensor:
    for dim, pieces in box:
        parts = []
        for piece in pieces:
            segment, inside = _blocks(tensor, dim, piece)
            part = segment.narrow(inside, piece.begin, piece.length)
            parts.append(part if inside == dim else part.flatten(dim, inside))
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
    return tensor


def _rest(box: Box, dim: int, added: int) -> Box:
    """Returns all cuts of a box but the first, after which ``added`` dimensions were put in at ``dim``."""
    return tuple((other + added if other > dim else other, pieces) for other, pieces in box[1:])


def _assign(full: Tensor, part: Tensor, box: Box) -> None:
    if not box:
        full.copy_(part)
        return
    (dim, pieces), position = box[0], 0
    for piece in pieces:
        segment, inside = _blocks(full, dim, piece)
        source = part.narrow(dim, position, piece.outer * piece.length)
        if inside != dim:
            source = _split(source, dim, (piece.outer, piece.length))
        _assign(segment.narrow(inside, piece.begin, piece.length), source, _rest(box, dim, inside - dim))
        position += piece.outer * piece.length


def _outside(full: Tensor, box: Box) -> list[Tensor]:
    if not box:
        return []
    views = []
    dim, pieces = box[0]
    for piece in pieces:
        segment, inside = _blocks(full, dim, piece)
        end = piece.begin + piece.length
        views.append(segment.narrow(inside, 0, piece.begin))
        views.append(segment.narrow(inside, end, piece.block - end))
        views += _outside(segment.narrow(inside, piece.begin, piece.length), _rest(box, dim, inside - dim))
    return [view for view in views if view.numel()]


def _spread(part: Tensor, box: Box) -> Tensor:
    """Returns what :func:`_assign` would write into zeros, by operations that ``torch.func`` can map over."""
    for dim, pieces in reversed(box):
        segments, position = [], 0
        for piece in pieces:
            source = part.narrow(dim, position, piece.outer * piece.length)
            source = _split(source, dim, (piece.outer, piece.length))
            position += piece.outer * piece.length
            ends = [0, 0] * (source.ndim - dim - 2) + [piece.begin, piece.block - piece.begin - piece.length]
            segments.append(F.pad(source, ends).flatten(dim, dim + 1))
        part = segments[0] if len(segments) == 1 else torch.cat(segments, dim)
    return part


class _Take(torch.autograd.Function):
    """The slice whose place is known."""

    @staticmethod
    def forward(tensor: Tensor, box: Box) -> Tensor:
        return _take(tensor, box)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensor, ctx.box = inputs
        ctx.shape, ctx.strides = _dense(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        if mapped():
            return _spread(grad, ctx.box), None
        full = grad.new_empty_strided(ctx.shape, ctx.strides).zero_()
        _assign(full, grad, ctx.box)
        return full, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _take(tangents[0], ctx.box)


# Function.apply binds arguments to it in every call; to find it out takes longer than to cut.
_Take.forward.__signature__ = inspect.signature(_Take.forward)  # type: ignore[attr-defined]


class _Gather(torch.autograd.Function):
    """The slice whose place is a tensor; no two of its elements are the same, so nothing has to be added up."""

    @staticmethod
    def forward(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
        return tensor.index_select(dim, index)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        tensor, ctx.dim, index = inputs
        ctx.save_for_backward(index)
        ctx.shape, ctx.strides = _dense(tensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        (index,) = ctx.saved_tensors
        full = grad.new_empty_strided(ctx.shape, ctx.strides).zero_()
        return full.index_copy(ctx.dim, index, grad), None, None


def _dense(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns shape and strides for a gradient: the tensor's own, so that it need not be copied to be accumulated."""
    own = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: (-own[dim], -tensor.shape[dim]))
    strides, step = [0] * tensor.ndim, 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(tensor.shape[dim], 1)
    return tuple(tensor.shape), tuple(strides)
