"""The tables of a report, with rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ecograph.explain import LayerReport, Report


def human(flops: int | None) -> str:
    """Returns a number of FLOPs for people: ``"1.42 G"``."""
    if flops is None:
        return "?"
    value = float(flops)
    for unit in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or unit == "P":
            return f"{value:.0f}" if unit == "" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError


def render(report: Report) -> Iterator[Table | Text]:
    """Yields what is printed: the layers, then the totals."""
    table = Table(title=f"{report.model}: FLOPs per training step, dense → on average over the schedule")
    table.add_column("layer", overflow="fold")
    table.add_column("type")
    table.add_column("output")
    for name in ("forward", "grad_input", "grad_weight"):
        table.add_column(name, justify="right")
    table.add_column("rewritten, or why not", overflow="fold")
    for layer in report.layers:
        table.add_row(*_row(layer), style=None if layer.rewritten_by and not layer.reason else "dim")
    yield table
    yield _totals(report)
    for path, method, note in report.parts:
        if note:
            yield Text(f"capture of {path or 'the model'}: {method}: {note}", style="dim")


def _row(layer: LayerReport) -> list[str | Text]:
    cells: list[str | Text] = [layer.name, layer.type]
    cells.append("?" if layer.output_shape is None else "×".join(map(str, layer.output_shape)))
    for name in ("forward", "grad_input", "grad_weight"):
        before = getattr(layer.before, name) if layer.before else None
        after = getattr(layer.after, name) if layer.after else None
        cells.append(human(before) if before == after else f"{human(before)} → {human(after)}")
    cells.append(layer.reason or Text(layer.rewritten_by, style="green"))
    return cells


def _totals(report: Report) -> Text:
    before, after = report.before, report.after
    lines = []
    for options in report.passes:
        count = sum(layer.rewritten_by == options["name"] for layer in report.layers)
        rate = f"mean rate {options['mean_rate']:.2g}"
        lines.append(
            f"{options['name']}: {count} of {len(report.layers)} layers, {rate}, "
            f"saves {human(report.saved_by(options['name']))} FLOPs per step"
        )
    if before.total:
        share = f" (backward {after.backward / before.backward:.0%})" if before.backward else ""
        lines.append(
            f"training step: {human(before.total)} → {human(after.total)} FLOPs, "
            f"{after.total / before.total:.0%} of dense{share}, counted from shapes"
        )
    if not report.complete:
        lines.append("FLOPs of some layers are unknown: give optimize(..., example_inputs=...)")
    return Text("\n".join(lines))
