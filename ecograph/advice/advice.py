"""What came of measuring: a row per setting, the best safe one, and how to switch it on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ecograph.advice.faults import Faults
from ecograph.advice.setting import Setting

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class Row:
    """A setting and what it took. Ratios are to plain training in the same rounds, per sample where the batch differs.

    Attributes:
        setting: its switches.
        impossible: why it cannot be run here; ``""`` where it can, and all else has a figure.
        seconds: of a step, the median of the rounds.
        time_ratio: the median of the ratios of the rounds.
        spread: how far apart the middle half of these ratios lie.
        joules: of a step; None where nothing is known.
        energy_source: how they are known.
        energy_ratio: as ``time_ratio``.
        peak_bytes: the most memory that a step holds; None where that cannot be read.
        memory_ratio: of it, not per sample.
        difference: of the first gradient to plain training's, as a share of its norm, without dropout; None for other
            batches, and for a compiled model with dropout.
        rounds: that were counted.
    """

    setting: Setting
    impossible: str = ""
    seconds: float | None = None
    time_ratio: float | None = None
    spread: float = 0.0
    joules: float | None = None
    energy_source: str = "none"
    energy_ratio: float | None = None
    peak_bytes: int | None = None
    memory_ratio: float | None = None
    difference: float | None = None
    rounds: int = 0

    @property
    def possible(self) -> bool:
        """Whether it could be run."""
        return not self.impossible

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON types."""
        figures = {name: value for name, value in vars(self).items() if name != "setting"}
        figures = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        setting = self.setting
        return {"title": setting.title, "numerics": setting.numerics, "setting": setting.to_dict(), **figures}


@dataclass(frozen=True)
class Advice:
    """What was measured; prints as a table and the lines of code that switch the best safe setting on.

    Attributes:
        model: class of the model.
        device: torch's type of its device.
        batch: samples in the example batch, or None.
        optimizer: as it is written in code.
        rows: plain training first.
        exact: the best of the exact settings; plain where none gains.
        best: the best of the exact and the near-exact ones: what is free.
        seconds: that all of it took.
        by: what is best: ``"time"`` or ``"energy"``.
        faults: page faults of plain steps, on a CPU.
    """

    model: str
    device: str
    batch: int | None
    optimizer: str
    rows: Sequence[Row]
    exact: Setting
    best: Setting
    seconds: float
    by: str = "time"
    faults: Faults | None = None

    @property
    def code(self) -> list[str]:
        """The lines that switch the best safe setting on; none where plain training is best."""
        return self.best.code(optimizer=self.optimizer, device=self.device)

    @property
    def energy_source(self) -> str:
        """How the joules are known."""
        return next((row.energy_source for row in self.rows if row.joules is not None), "none")

    def row(self, setting: Setting) -> Row:
        """Returns what was measured of a setting.

        Raises:
            ValueError: where it was not measured.
        """
        for row in self.rows:
            if row.setting == setting:
                return row
        raise ValueError(f"{setting.title} was not measured")

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return {
            "model": self.model,
            "device": self.device,
            "batch": self.batch,
            "by": self.by,
            "seconds": self.seconds,
            "energy_source": self.energy_source,
            "rows": [row.to_dict() for row in self.rows],
            "exact": {"title": self.exact.title, "setting": self.exact.to_dict()},
            "page_faults": None if self.faults is None else self.faults.to_dict(),
            "best": {"title": self.best.title, "setting": self.best.to_dict(), "code": self.code},
        }

    def __str__(self) -> str:
        """Returns the best safe setting in a line."""
        return f"{self.model}: {self.best.title}, {self.row(self.best).time_ratio:.2f} of the time of plain training"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the table and the code."""
        from ecograph.advice.table import render

        yield from render(self, options.max_width)
