"""Taking the slice of a parameter, and putting a slice back.

Eagerly a slice is a view wherever it is one stretch of each dimension, and the gradient of the parameter is written
once: zeros, and the slice's gradient copied into them. ``as_strided`` does both in one call (two nested ``narrow``
would fill with zeros twice). In compiled code, where a start that changes would be a new program, the elements are
gathered by an index that stays a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ecograph.analysis.layout import Layout
from ecograph.passes.sliceout.given import take_given
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.rewrite.functions import applied, mapped


@dataclass(frozen=True, eq=False)
class Cut:
    """How one dimension of a tensor is cut.

    Attributes:
        dim: the dimension.
        layout: what it is made up of.
        slices: the slice of each group; a segment whose group is not among them stays whole.
        size: elements of the whole dimension.
        concerned: the slices that it is cut to.
    """

    dim: int
    layout: Layout
    slices: Mapping[str, GroupSlice]
    size: int = field(init=False)
    concerned: tuple[GroupSlice, ...] = field(init=False)
    _known: dict[tuple[tuple[int, int] | None, ...], tuple[Piece, ...] | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = (self.slices.get(segment.group) for segment in self.layout if segment.group)
        object.__setattr__(self, "concerned", tuple(dict.fromkeys(each for each in found if each is not None)))
        object.__setattr__(self, "size", full_size(self.layout))
        object.__setattr__(self, "_known", {})

    @property
    def active(self) -> bool:
        """Whether anything is cut off now."""
        return any(found.active for found in self.concerned)

    def pieces(self) -> tuple[Piece, ...] | None:
        """Returns what is kept of the dimension now; None where that is all of it. Not for compiled code."""
        stamp = tuple([found.window for found in self.concerned])
        if stamp not in self._known:
            if len(self._known) > 64:  # many starts, and other widths in every epoch
                self._known.clear()
            self._known[stamp] = _pieces(self) if any(stamp) else None
        return self._known[stamp]


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
    if torch.compiler.is_compiling():
        box: Box = ()
        cuts = [cut for cut in cuts if cut.active]
    else:
        box = _box(cuts, tensor.ndim)
    taken = _taken(tensor, cuts, box, name)
    return rescale(taken, cuts) if scale else taken


def take_all(tensors: Sequence[Tensor], cuts: Sequence[Cut], *, name: str = "a tensor") -> list[Tensor]:
    """Returns what :func:`take` does of each of several tensors of as many dimensions."""
    if torch.compiler.is_compiling() or not tensors:
        return [take(tensor, cuts, name=name) for tensor in tensors]
    box = _box(cuts, tensors[0].ndim)  # asked for once: what is cut of a step's many small tensors takes its time
    return [_taken(tensor, cuts, box, name) for tensor in tensors]


def _taken(tensor: Tensor, cuts: Sequence[Cut], box: Box, name: str) -> Tensor:
    """Returns the part of a tensor, by its cuts in compiled code, else by the box that is made of them."""
    for cut in cuts:
        if tensor.shape[cut.dim] != cut.size:
            raise ValueError(
                f"dimension {cut.dim} of {name} has {tensor.shape[cut.dim]} elements, and had {cut.size} "
                "when the model was optimized: restore it, then optimize it again"
            )
    compiling = torch.compiler.is_compiling()
    if not (cuts if compiling else box):
        return tensor
    if has_torch_function((tensor,)):
        result: Tensor = handle_torch_function(take, (tensor,), tensor, cuts, name=name)
        return result
    if compiling:
        for cut in cuts:
            given = cut.concerned[0].rate.given
            if given is not None:
                tensor = take_given(tensor, cut, given)
            else:
                tensor = _Gather.apply(tensor, cut.dim, _index(cut, tensor.device))  # type: ignore[no-untyped-call]
        return tensor
    if _strided(tensor, box):
        return _window(tensor, box)
    if torch.is_grad_enabled() and tensor.requires_grad and not mapped():
        return _apply(tensor, box)  # type: ignore[no-any-return]
    return _take(tensor, box)


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
    if not torch.compiler.is_compiling():
        _assign(full, value, _box(cuts, full.ndim))
        return
    cuts = [cut for cut in cuts if cut.active]
    if not cuts:
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
    return _outside(full, _box(cuts, full.ndim))


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
    """Returns the dimensions that are cut now."""
    return tuple((cut.dim % ndim, pieces) for cut in cuts if (pieces := cut.pieces()) is not None)


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


def _strided(tensor: Tensor, box: Box) -> bool:
    """Whether the part is one stretch of each dimension, and the tensor has strides to say so by.

    Tensors that wrap others (DTensor) have none, nor have those that ``torch.func`` maps over.
    """
    for _, pieces in box:
        if len(pieces) > 1 or pieces[0].outer > 1:
            return False
    return (type(tensor) in (nn.Parameter, Tensor) or not is_traceable_wrapper_subclass(tensor)) and not mapped()


def _window(tensor: Tensor, box: Box) -> Tensor:
    """Returns the part as a view, made in one call; its backward is torch's own, in one call too."""
    size, strides, offset = list(tensor.shape), tensor.stride(), tensor.storage_offset()
    for dim, (piece,) in box:
        size[dim] = piece.length
        offset += (piece.offset + piece.begin) * strides[dim]
    return tensor.as_strided(size, strides, offset)


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
    """The slice whose place is known, of several stretches."""

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


_apply = applied(_Take)


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
