"""How the index space of one tensor dimension is made up, as far as slicing is concerned.

A dimension is a row of segments. A segment that a group slices consists of ``outer`` blocks of ``units`` units of
``inner`` elements each, in memory order: the output dimension of a packed query-key-value projection of 6 heads of 64
is one segment ``(outer=3, units=6, inner=64)``; a hidden width of 2048 is ``(1, 2048, 1)``; what a concatenation joins
is one segment after the other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A stretch of a dimension.

    Attributes:
        size: elements: ``outer * units * inner``.
        group: name of the channel group that slices it, or "" where it stays whole.
        outer: blocks, each of which holds every unit of the group.
        units: units of the group.
        inner: neighbouring elements that make up one unit.
    """

    size: int
    group: str = ""
    outer: int = 1
    units: int = 1
    inner: int = 1


#: One dimension, from its first element to its last.
Layout = tuple[Segment, ...]


def is_sliced(layout: Layout) -> bool:
    """Whether any group slices the dimension."""
    return any(segment.group for segment in layout)
