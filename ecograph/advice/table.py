"""Showing advice, with rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from ecograph.advice.setting import MEANING
from ecograph.cost.estimate.table import duration, energy
from ecograph.cost.meter.used import kinds
from ecograph.report_table import human

if TYPE_CHECKING:
    from ecograph.advice.advice import Advice, Row

STYLES = {"exact": "green", "near-exact": "cyan", "approximate": "yellow"}


#: Columns from which a table has amounts beside the ratios.
WIDE = 110


def render(advice: Advice, width: int) -> Iterator[Table | Text]:
    """Yields the table of settings, what could not be run, the code, and what the words mean.

    Args:
        advice: what to show.
        width: columns there are.
    """
    yield _table(advice, wide=width >= WIDE)
    impossible = [row for row in advice.rows if not row.possible]
    if impossible:
        lines = [f"{row.setting.title} ({row.impossible})" for row in impossible]
        yield Text("not possible here: " + "; ".join(lines) + "\n", style="dim")
    yield _code(advice)
    yield Text("\n".join(_notes(advice)), style="dim")


def _table(advice: Advice, *, wide: bool) -> Table:
    source = " + ".join(kinds(advice.energy_source)) or "unknown"
    batch = f", batch {advice.batch}" if advice.batch else ""
    table = Table(
        title=f"{advice.model}: a training step on this {advice.device.upper()}{batch}, next to plain",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("setting", overflow="fold", min_width=16)
    table.add_column("numerics", no_wrap=True)
    for name in ("step", "time", f"energy\n{source}", "peak\nmemory", "gradient\noff by"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in advice.rows:
        if row.possible:
            chosen = row.setting == advice.best
            table.add_row(*_cells(row, wide=wide), style="bold" if chosen else "")
    return table


def _cells(row: Row, *, wide: bool) -> list[str | Text]:
    setting = row.setting
    joules = f" ({energy(row.joules)})" if wide and row.joules is not None else ""
    memory = f" ({human(row.peak_bytes)}B)" if wide and row.peak_bytes is not None else ""
    return [
        setting.title,
        Text(setting.numerics, style=STYLES[setting.numerics]),
        "" if row.seconds is None else duration(row.seconds),
        "" if row.time_ratio is None else f"{row.time_ratio:.2f} ± {row.spread / 2:.2f}",
        "unknown" if row.energy_ratio is None else f"{row.energy_ratio:.2f}{joules}",
        "unknown" if row.memory_ratio is None else f"{row.memory_ratio:.2f}{memory}",
        "" if row.difference is None else "-" if not row.difference else f"{row.difference:.1g}",
    ]


def _code(advice: Advice) -> Text:
    row = advice.row(advice.best)
    if not advice.code:
        return Text("Best safe setting: plain training. Nothing that is free gains 2% here.\n", style="bold")
    text = Text()
    text.append(
        f"Best safe setting: {advice.best.title}, {row.time_ratio:.2f} of plain training's time. ", style="bold"
    )
    text.append("To switch it on:\n\n")
    text.append("".join(f"    {line}\n" for line in advice.code), style="cyan")
    options = ", ".join(f"{name}={value!r}" for name, value in advice.best.loop_options().items())
    if options:
        text.append(f"\nWith ecograph's loop: TrainingLoop(..., {options}).\n")
    return text


def _notes(advice: Advice) -> list[str]:
    lines = [f"{name}: {MEANING[name]}" for name in dict.fromkeys(row.setting.numerics for row in advice.rows)]
    if advice.faults is not None and advice.faults.offer:
        lines.insert(0, advice.faults.offer)
    if any(row.setting.batch for row in advice.rows):
        lines.append("another batch size: time and energy per sample; the learning rate must be set anew")
    if any(row.setting.passes for row in advice.rows):
        lines.append("passes: at their default strength, on average over their schedule; the gradient at their peak")
    lines.append(f"measured in turn in {advice.seconds:.0f} s; ±: half of what the middle half of the rounds spans")
    lines.append(f"energy: {advice.energy_source}; memory: measured, what torch allocates")
    return lines
