"""Rewriting single calls in a custom module's forward, while it runs: for slices of channel groups.

The forward runs as it is; the calls of torch functions that it makes are watched (:mod:`.route`). A call that reads a
parameter of a sliced width gets the slice of it; a batch norm gets the slices of its statistics; a call that spells out
sizes, ``x.view(batch, tokens, 12, 64)``, gets the sizes of the slice. Parameters are recognised by identity, calls with
sizes by their function, their order and the sizes that they are given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Size, Tensor, nn

from ecograph.analysis.layout import Layout, is_sliced
from ecograph.rewrite.slicing import SIZED, SizeChange


class Slice(Protocol):
    """What is in force on a channel group."""

    units: int

    @property
    def active(self) -> bool:
        """Whether the group is sliced now."""
        ...

    @property
    def width(self) -> int:
        """Units of the slice."""
        ...


class Cutter(Protocol):
    """What takes the slice of one parameter or buffer."""

    @property
    def slices(self) -> Mapping[str, Slice]:
        """The groups concerned."""
        ...

    def __call__(self, tensor: Tensor) -> Tensor:
        """Returns the slice in force of the tensor."""
        ...


@dataclass
class Calls:
    """What changes in the calls of one module's forward.

    Attributes:
        cuts: for a parameter or buffer, by its name in the module, what cuts it.
        norms: for the tensors of a batch norm, what computes it in place of ``F.batch_norm``.
        sizes: calls that spell out sizes, in order.
        slices: the groups concerned.
    """

    cuts: dict[str, Cutter] = field(default_factory=dict)
    norms: list[tuple[tuple[str, ...], Callable[..., Tensor]]] = field(default_factory=list)
    sizes: list[Sizes] = field(default_factory=list)
    slices: dict[str, Slice] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether any group is sliced now."""
        return any(each.active for each in self.slices.values())


class Sizes:
    """A call that spells out sizes, and what they are on the slice.

    Args:
        change: the call, as captured.
        slices: the groups.
    """

    def __init__(self, change: SizeChange, slices: Mapping[str, Slice]) -> None:
        self.name = change.name
        self.before = change.before
        self.after = change.after
        self.groups = change.groups
        self.slices = slices
        # Captured with a batch of one, a dimension that batch and heads share looks like heads alone.
        self.shared = sum(map(_is_one, self.before)) != sum(map(_is_one, self.after[0]))

    def fits(self, name: str, args: Sequence[Any]) -> bool:
        """Whether a call may be this one: the same function, of an input with the slice's sizes where it is sliced."""
        if name != self.name or not args or not isinstance(args[0], Tensor) or args[0].dim() != len(self.before):
            return False
        return all(map(self._has_size, args[0].shape, self.before))

    def _has_size(self, size: int, layout: Layout) -> bool:
        if not is_sliced(layout):
            return True
        _, now = self._now(layout)
        if len(layout) == 1 and (layout[0].outer > 1 or self.shared):  # the blocks may be a batch, of any size
            return size % now == 0
        return size == now

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Returns the call's arguments with the sizes of the slice, or None where it is another call after all."""
        input, *rest = args
        if self.name == "group_norm":
            count = rest[0] if rest else kwargs["num_groups"]
            full, now = self._now(self.groups)
            return (input, count * now // full, *rest[1:]), {k: v for k, v in kwargs.items() if k != "num_groups"}
        if self.name in ("split", "split_with_sizes"):
            sizes = rest[0] if rest else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
            dim = rest[1] if len(rest) > 1 else kwargs.get("dim", 0)
            if any(is_sliced(layouts[dim]) for layouts in self.after):
                sizes = [self._whole(layouts[dim]) for layouts in self.after]
            return (input, sizes, dim), {}
        dim, sizes = self._sizes(rest, kwargs)
        if self.name in ("expand", "broadcast_to"):
            changed = self._expanded(input, sizes)
        else:
            changed = self._regrouped(input, sizes, dim)
        if changed is None:
            return None
        return ((input, dim, changed) if self.name == "unflatten" else (input, changed)), {}

    def _now(self, layout: Layout) -> tuple[int, int]:
        """Returns the elements of a dimension and how many are in force; without outer blocks, which may vary."""
        if len(layout) == 1 and layout[0].group:
            (segment,) = layout
            found = self.slices[segment.group]
            return segment.units * segment.inner, (found.width if found.active else segment.units) * segment.inner
        full = now = 0
        for segment in layout:
            each = self.slices.get(segment.group)
            units = each.width if each is not None and each.active else segment.units
            full += segment.size
            now += segment.outer * units * segment.inner if segment.group else segment.size
        return full, now

    def _whole(self, layout: Layout) -> int:
        full, now = self._now(layout)
        return sum(segment.size for segment in layout) // full * now

    def _sizes(self, rest: list[Any], kwargs: dict[str, Any]) -> tuple[int | None, list[Any]]:
        dim = None
        if self.name == "unflatten":
            dim, rest = (rest[0], rest[1:]) if rest else (kwargs["dim"], rest)
        if not rest:
            rest = [next(kwargs[key] for key in ("sizes", "size", "shape") if key in kwargs)]
        sizes = list(rest[0]) if isinstance(rest[0], (tuple, list, Size)) else list(rest)
        return dim, sizes

    def _regrouped(self, input: Tensor, sizes: list[Any], dim: int | None) -> list[Any] | None:
        """The sizes after a view: those that were given for the whole, or already for the slice."""
        before, after = list(zip(input.shape, self.before, strict=True)), list(self.after[0])
        if dim is not None:
            start = dim % input.dim()
            before, after = before[start : start + 1], after[start : start + len(sizes)]
        numel = math.prod([size for size, _ in before])  # a list: Dynamo cannot trace a generator here
        choices = []
        for whole in (True, False):
            now = self._scaled(sizes, after, whole)
            known = math.prod([size for size in now or () if size != -1])
            if now is not None and known and numel % known == 0:
                filled = [numel // known if size == -1 else size for size in now]
                if math.prod(filled) == numel:
                    choices.append((_agreement(before, list(zip(filled, after, strict=True))), now))
        # With a -1 among them both may be possible.
        return max(choices, key=lambda choice: choice[0])[1] if choices else None

    def _scaled(self, sizes: list[Any], after: Sequence[Layout], whole: bool) -> list[Any] | None:
        """Returns the sizes on the slice, where those that were given are of the whole (or already of the slice)."""
        if len(sizes) != len(after):
            return None
        result = []
        for size, layout in zip(sizes, after, strict=True):
            if not is_sliced(layout) or size == -1:
                result.append(size)
                continue
            full, now = self._now(layout)
            if size % (full if whole else now):
                return None
            result.append(size // full * now if whole else size)
        return result

    def _expanded(self, input: Tensor, sizes: list[Any]) -> list[Any] | None:
        if len(sizes) != len(self.after[0]):
            return None
        result = list(sizes)
        given = [1] * (len(sizes) - input.dim()) + list(input.shape)
        for i, layout in enumerate(self.after[0]):
            if not is_sliced(layout) or sizes[i] in (-1, given[i]):
                continue
            full, now = self._now(layout)
            if sizes[i] % full == 0:
                result[i] = sizes[i] // full * now
            elif sizes[i] % now:
                return None
        return result


def _is_one(layout: Layout) -> bool:
    return sum(segment.size for segment in layout) == 1


def _agreement(before: list[tuple[int, Layout]], after: list[tuple[int, Layout]]) -> int:
    """Returns how well a view fits the layouts of its dimensions.

    A view falls into pieces, each of which regroups some neighbouring dimensions. Those count that are sliced on both
    sides, or on none.
    """
    # Of dimensions of one element only those say something that are a single unit of a group.
    left, right = ([each for each in dims if each[0] != 1 or is_sliced(each[1])] for dims in (before, after))
    count = 0
    while left and right:
        sizes, sliced = [1, 1], [False, False]
        while sizes[0] != sizes[1] or sizes == [1, 1]:
            side = 0 if sizes[0] <= sizes[1] else 1
            if not (left, right)[side]:
                return count
            size, layout = (left, right)[side].pop(0)
            sizes[side] *= size
            sliced[side] = sliced[side] or is_sliced(layout)
        if math.prod([size for size, _ in left + right]) == 1:  # single units at the end belong to the last piece
            sliced = [sliced[0] or bool(left), sliced[1] or bool(right)]
        count += sliced[0] == sliced[1]
    return count


class Walk:
    """One run of a module's forward: which calls were met, and which tensors are cut.

    Args:
        calls: what changes.
        module: whose forward runs.
    """

    def __init__(self, calls: Calls, module: nn.Module) -> None:
        self.calls = calls
        self.met = 0
        self.cuts = [(tensor, cut) for name, cut in calls.cuts.items() if (tensor := find(module, name)) is not None]
        self.norms = [
            (tensors, norm)
            for names, norm in calls.norms
            if (tensors := [t for n in names if (t := find(module, n)) is not None])
        ]

    def rewrite(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Returns the call to make in place of one."""
        if name == "batch_norm" and self.norms:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            for tensors, norm in self.norms:
                if any(value is tensor for value in given for tensor in tensors):
                    return norm, args, kwargs
        if self.cuts:
            args = tuple(self._cut(value) for value in args)
            kwargs = {key: self._cut(value) for key, value in kwargs.items()}
        if name in _SIZED:
            if not args:
                key = next(key for key in ("input", "tensor", "self") if key in kwargs)
                args, kwargs = (kwargs[key],), {k: v for k, v in kwargs.items() if k != key}
            for i in range(self.met, len(self.calls.sizes)):
                if self.calls.sizes[i].fits(name, args) and (now := self.calls.sizes[i](args, kwargs)) is not None:
                    self.met = i + 1
                    args, kwargs = now
                    break
        return func, args, kwargs

    def complaint(self, name: str, error: Exception) -> str | None:
        """Returns what a failing call may come from, where calls with sizes were not met."""
        if not any(each.name == name for each in self.calls.sizes[self.met :]):
            return None
        groups = ", ".join(self.calls.slices)
        return (
            f"{name} failed on a slice of {groups} ({error}): the forward took another path than with the example "
            "inputs. Give optimize example_inputs as in training, or leave the module out with skip=[...]"
        )

    def cut(self, value: Any) -> Any:
        """Returns the slice of a tensor that is cut; anything else as it is."""
        return self._cut(value)

    def _cut(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)) and any(isinstance(each, Tensor) for each in value):
            return type(value)([self._cut(each) for each in value])
        if isinstance(value, Tensor):
            for tensor, cut in self.cuts:
                if value is tensor:
                    return cut(value)
        return value


_SIZED = frozenset(SIZED)


def find(module: nn.Module, name: str) -> Tensor | None:
    """Returns the tensor called ``name``; where its parametrization was removed since, what it made."""
    head, removed, tail = name.rpartition("parametrizations.")
    for path in (name, head + tail.partition(".")[0]) if removed else (name,):
        found: Any = module
        for part in path.split("."):
            found = getattr(found, part, None)
        if isinstance(found, Tensor):
            return found
    return None
