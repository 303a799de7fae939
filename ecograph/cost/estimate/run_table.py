"""The table of a planned training, with rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from ecograph.cost.estimate.table import duration
from ecograph.cost.footprint import Footprint
from ecograph.cost.meter.used import digits, joules_text
from ecograph.report_table import human

if TYPE_CHECKING:
    from ecograph.cost.estimate.result import Amount
    from ecograph.cost.estimate.run import PlannedRun


def render(run: PlannedRun) -> Iterator[Table | Text]:
    """Yields what is printed: the plain training next to the planned one, and how the figures are known."""
    title = f"The whole training of {run.estimate.model} on {run.estimate.device.title}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    for name in ("plain", "as planned", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("epochs trained", str(run.epochs), str(run.trained), _share(run.epochs, run.trained))
    table.add_row("steps", str(run.epochs * run.steps), str(run.trained * run.steps), "")
    one, mean = _step(run, run.epoch_before), _step(run, run.epoch_after)
    table.add_row("a step, on average", duration(one), duration(mean), _share(one, mean))
    before, after = run.before, run.after
    table.add_row("FLOPs", human(round(before.flops)), human(round(after.flops)), _share(before.flops, after.flops))
    table.add_row("time", long(before.seconds), long(after.seconds), _share(before.seconds, after.seconds))
    saved = _share(before.joules, after.joules)
    table.add_row("energy", joules_text(before.joules), joules_text(after.joules), saved)
    first, second = run.footprint_before, run.footprint_after
    table.add_row("", f"{digits(first.kwh)} kWh", f"{digits(second.kwh)} kWh", saved)
    table.add_row("CO2", _grams(first), _grams(second), saved)
    if first.cost is not None and second.cost is not None:
        table.add_row("money", _money(first, first.cost), _money(second, second.cost), saved)
    yield table
    yield Text("\n".join(_lines(run)), style="dim")


def _lines(run: PlannedRun) -> list[str]:
    lines = [f"times and energy are {run.estimate.source.replace(':', ', ', 1)}; CO2 at {_grid(run.footprint_after)}"]
    lines.append("reading data, evaluation and checkpoints are not in it")
    if run.before.seconds > run.after.seconds:
        lines.append(f"it takes as long as {digits(run.dense_epochs)} plain epochs: what it has to be better than")
    return [*lines, *run.estimate.notes]


def _step(run: PlannedRun, epoch: Amount) -> float:
    return epoch.seconds / run.steps


def _share(before: float, after: float) -> str:
    return f"{1 - after / before:.0%}" if before and before != after else ""


def _grid(found: Footprint) -> str:
    return f"{found.grid:g} g/kWh" + (f", {found.grid_source}" if found.grid_source else "")


def _grams(found: Footprint) -> str:
    grams = found.co2_grams
    return f"{digits(grams / 1000)} kg" if grams >= 999.5 else f"{digits(grams)} g"


def _money(found: Footprint, cost: float) -> str:
    return f"{digits(cost)} {found.currency}".rstrip()


def long(seconds: float) -> str:
    """Returns a time that may be long, for people: ``"1.42 s"``, ``"3 min 5 s"``, ``"2 h 10 min"``, ``"3 d 4 h"``."""
    if seconds < 60:
        return duration(seconds)
    whole = round(seconds)
    for large, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {large} {whole % size // part} {small}"
    raise AssertionError(seconds)
