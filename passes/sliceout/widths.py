"""How wide a slice is, where it may start, and how often that covers each unit: arithmetic, and nothing else.

A group has ``units`` units (channels, heads) of ``inner`` neighbouring elements each. Widths and starts count units.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def kept_units(units: int, inner: int, rate: float, align: int) -> int:
    """Returns how many units a slice has.

    Args:
        units: of the group.
        inner: elements per unit.
        rate: share of the units that are dropped, from 0 to below 1.
        align: the slice's elements are a multiple of it.

    Returns:
        The aligned number nearest to ``(1 - rate) * units``, at least one step of the alignment; ``units`` where
        nothing is dropped; 0 where not one unit would be left, or the group is narrower than a step.
    """
    if rate == 0:
        return units
    step = _step(inner, align)
    wanted = (1 - rate) * units
    if math.floor(wanted + 0.5 + 1e-9) == 0 or units < step:
        return 0
    return min(max(math.floor(wanted / step + 0.5 + 1e-9), 1) * step, units)


def _step(inner: int, align: int) -> int:
    """Returns the fewest units whose elements are a multiple of ``align``."""
    return align // math.gcd(align, inner)


class Grid(NamedTuple):
    """The eligible starts, as a formula: compiled code must find a start without a table.

    Attributes:
        span: the last start.
        step: starts are multiples of it, but for the last.
        steps: from the first start to the last, the last of them maybe short.
        intervals: one fewer than the starts.
    """

    span: int
    step: int
    steps: int
    intervals: int

    @property
    def choices(self) -> int:
        """How many starts there are."""
        return self.intervals + 1

    def tensor(self, i: Tensor) -> Tensor:
        """Returns the starts at the positions ``i``, int64 from 0 to ``intervals``."""
        return (i * self.steps // self.intervals * self.step).clamp(max=self.span)

    def at(self, i: int) -> int:
        """Returns the start at position ``i``."""
        return min(i * self.steps // self.intervals * self.step, self.span)


def start_grid(units: int, width: int, inner: int, starts: str, align: int) -> Grid:
    """Returns the eligible starts of a slice of ``width`` of the ``units``; see :func:`eligible_starts`."""
    span = units - width
    if span == 0:
        return Grid(0, 1, 0, 1)
    if starts == "grid":
        step = _step(inner, align)
        steps = -(-span // step)
        # Near half a slice apart; never farther than a slice, or a unit would go untrained.
        intervals = max(math.floor(2 * span / width + 0.5), -(-steps * step // width))
        return Grid(span, step, steps, min(intervals, steps))
    step = width if starts == "blocks" else 1
    steps = -(-span // step)
    return Grid(span, step, steps, steps)


def eligible_starts(units: int, width: int, inner: int, starts: str, align: int) -> tuple[int, ...]:
    """Returns the units at which a slice may start, ascending. Together the slices cover every unit.

    Args:
        units: of the group.
        width: units of the slice.
        inner: elements per unit.
        starts: ``"any"``: every position. ``"blocks"``: side by side, and one that ends with the last unit.
            ``"grid"``: evenly spaced, about half a slice apart and on the alignment, from the first to the last.
        align: of the elements at which a slice of the grid starts, but for the last.
    """
    grid = start_grid(units, width, inner, starts, align)
    return tuple(grid.at(i) for i in range(grid.choices if grid.span else 1))


def keep_probability(units: int, width: int, starts: tuple[int, ...]) -> Tensor:
    """Returns the share of the starts whose slice has each unit: ``(units,)``, float64, all above 0."""
    edges = torch.zeros(units + 1, dtype=torch.float64)
    for start in starts:
        edges[start] += 1
        edges[start + width] -= 1
    return edges.cumsum(0)[:-1] / len(starts)
