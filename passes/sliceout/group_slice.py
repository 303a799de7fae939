"""The slice of one channel group that is in force at this moment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ecograph.passes.sliceout.draws import BITS, SliceRate
from ecograph.passes.sliceout.widths import Grid, eligible_starts, keep_probability, kept_units, start_grid


class GroupSlice:
    """What every layer of a channel group asks: is the group sliced now, and where.

    Args:
        name: of the group.
        units: of the group.
        inner: elements per unit where the group is made.
        rate: the pass's rate, shared by all its groups.
        anchor: the module in whose training mode the group is sliced; None for always.
        align: elements of a slice are a multiple of it.
        starts: which starts are eligible; see :func:`~.widths.eligible_starts`.
        normalization: ``"flow"``: what is kept is scaled by units / width. ``"probability"``: each unit by one over
            the probability that it is kept.
        max_scale: the most that a unit is scaled by its probability.
    """

    def __init__(
        self,
        name: str,
        units: int,
        inner: int,
        rate: SliceRate,
        *,
        anchor: nn.Module | None = None,
        align: int = 1,
        starts: str = "grid",
        normalization: str = "flow",
        max_scale: float = 4.0,
    ) -> None:
        self.name = name
        self.units = units
        self.inner = inner
        self.rate = rate
        self.anchor = anchor
        self.align = align
        self.starts = starts
        self.normalization = normalization
        self.max_scale = max_scale
        self._number = rate.register(name)
        self._scales: dict[tuple[float, torch.device], Tensor] = {}
        # Asked by every layer in every step, and the same until the rate or the draw changes. Not kept while a compiler
        # traces: what it finds in a dictionary, it would guard.
        self._widths: dict[float, int] = {}
        self._window: tuple[Tensor, int, float, bool, tuple[int, int] | None] | None = None

    def __repr__(self) -> str:
        return f"GroupSlice({self.name!r}, {self.width_at(self.rate.peak)} of {self.units} units)"

    def __getstate__(self) -> dict[str, Any]:
        """Returns all but the window that is known: a copy's draws count their changes anew."""
        return {**vars(self), "_window": None}

    @property
    def active(self) -> bool:
        """Whether the group is sliced now.

        Like dropout it does not ask for gradients: checkpointing runs the forward without them, then with them.
        """
        if not torch.compiler.is_compiling():
            return self.window is not None
        if self.rate.now == 0 or (self.anchor is not None and not self.anchor.training):
            return False
        return self.width < self.units

    @property
    def window(self) -> tuple[int, int] | None:
        """The first unit of the slice and its width; None where nothing is cut off. Not for compiled code."""
        rate = self.rate
        now, draws = rate.now, rate.draws
        if now == 0 or (self.anchor is not None and not self.anchor.training):
            return None
        version = draws._version
        found = self._window
        if found is None or found[0] is not draws or found[1:4] != (version, now, rate.known):
            width = self.width_at(now)
            window = (self._first(), width) if width < self.units else None
            found = self._window = (draws, version, now, rate.known, window)
        return found[4]

    def width_at(self, rate: float) -> int:
        """Returns the units of a slice at a rate; all units where none can be dropped."""
        if torch.compiler.is_compiling():
            return kept_units(self.units, self.inner, rate, self.align) or self.units
        known = self._widths.get(rate)
        if known is None:
            if len(self._widths) > 64:  # a schedule that never repeats a rate
                self._widths.clear()
            known = self._widths[rate] = kept_units(self.units, self.inner, rate, self.align) or self.units
        return known

    @property
    def width(self) -> int:
        """The units of a slice at the present rate."""
        return self.width_at(self.rate.now)

    @property
    def choices(self) -> int:
        """How many starts are eligible at the peak rate."""
        width = self.width_at(self.rate.peak)
        return len(eligible_starts(self.units, width, self.inner, self.starts, self.align))

    @property
    def start(self) -> int:
        """The first unit of the slice. Not for compiled code, which would be compiled once for each."""
        window = self.window
        return self._first() if window is None else window[0]

    def _first(self) -> int:
        grid = self._grid()
        return grid.at(self.rate.numbers[self._number] * grid.choices >> BITS)

    def _grid(self) -> Grid:
        return start_grid(self.units, self.width, self.inner, self.starts, self.align)

    def _start_tensor(self) -> Tensor:
        if self.rate.given is not None:
            return self.rate.given.start(self.name)
        grid = self._grid()
        return grid.tensor(self.rate.draws[self._number] * grid.choices >> BITS)

    def index(self, inner: int, outer: int = 1, device: torch.device | str | None = None) -> Tensor:
        """Returns the elements of the slice in a dimension of ``outer`` blocks of units of ``inner`` elements each.

        For compiled code: the start stays a tensor.

        Returns:
            ``(outer * width * inner,)``, int64, ascending.
        """
        first = (self._start_tensor() * inner).to(device)
        index = torch.arange(self.width * inner, device=device) + first
        if outer == 1:
            return index
        blocks = torch.arange(outer, device=device) * (self.units * inner)
        return (blocks.unsqueeze(1) + index).flatten()

    def scale(self, device: torch.device | str | None = None) -> float | Tensor:
        """Returns what the kept units are multiplied by, so that what they sum up to has its usual size.

        Returns:
            A number or, normalized by probability, ``(width,)`` numbers in float32.
        """
        if self.normalization == "flow":
            return self.units / self.width
        given = self.rate.given
        if torch.compiler.is_compiling() and given is None:
            return self._traced_scale(device)
        key = (self.rate.now, torch.device(device or "cpu"))
        if key not in self._scales:
            if len(self._scales) > 64:  # a schedule that never repeats a rate
                self._scales.clear()
            width = self.width
            starts = eligible_starts(self.units, width, self.inner, self.starts, self.align)
            with torch.inference_mode(False):  # it is kept, and a later forward may train
                inverse = keep_probability(self.units, width, starts).reciprocal().clamp(max=self.max_scale)
                self._scales[key] = inverse.to(torch.float32).to(key[1])
        if given is not None:
            return given.narrow(self._scales[key], 0, given.start(self.name), self.width)
        return self._scales[key].narrow(0, self.start, self.width)

    def _traced_scale(self, device: torch.device | str | None) -> Tensor:
        """The same from the formula of the starts: a table made while tracing would be a constant of the program."""
        grid, width = self._grid(), self.width
        starts = grid.tensor(torch.arange(grid.choices, device=device))
        units = torch.arange(width, device=device) + self._start_tensor().to(device)
        # The slices that have a unit are those that start at or before it, less those that have ended by then.
        begun = torch.searchsorted(starts, units, right=True)
        ended = torch.searchsorted(starts, units - width, right=True)
        return (grid.choices / (begun - ended).to(torch.float32)).clamp(max=self.max_scale)
