"""The tables of a report, with rich."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ecograph.explain import GroupReport, LayerReport, Report


#: Columns below which the table leaves out what a reason says in detail.
WIDE = 120

_UNITS = ("", "k", "M", "G", "T", "P")


def human(flops: int | None) -> str:
    """Returns a number of FLOPs for people: ``"1.42 G"``."""
    if flops is None:
        return "?"
    unit = _unit(flops)
    return f"{_in(flops, unit)} {_UNITS[unit]}".rstrip()


def human_change(before: int | None, after: int | None) -> str:
    """Returns two numbers of FLOPs in the unit of the larger: ``"151 → 90.5 M"``; one where they are equal."""
    if before == after or before is None or after is None:
        return human(before)
    unit = _unit(max(before, after))
    return f"{_in(before, unit)} → {_in(after, unit)} {_UNITS[unit]}".rstrip()


def _unit(flops: int) -> int:
    """Returns the unit, as a power of 1000, in which a number has up to three digits before the point."""
    value, unit = float(flops), 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return unit


def _in(flops: int, unit: int) -> str:
    return f"{flops / 1000**unit:.3g}" if unit else str(flops)


def render(report: Report, width: int = WIDE) -> Iterator[Table | Text]:
    """Yields what is printed: the layers, then the totals.

    Args:
        report: what to print.
        width: columns there are. A narrow table names reasons without their details.
    """
    table = Table(
        title=f"{report.model}: FLOPs per training step, dense → on average over the schedule",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("layer", overflow="fold")
    table.add_column("type", no_wrap=True)
    table.add_column("output", no_wrap=True)
    for name in ("forward", "grad_input", "grad_weight"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rewritten, or why not" if width >= WIDE else "rewritten?", overflow="fold")
    for layer in report.layers:
        rewritten = layer.rewritten_by and not layer.reason
        table.add_row(*_row(layer, details=width >= WIDE), style=None if rewritten else "dim")
    yield table
    if any(group.members for group in report.groups):
        yield _groups(report.groups, details=width >= WIDE)
    yield from _stopped(report.groups)
    yield _totals(report)
    for note in report.notes:
        yield Text(note, style="yellow")
    for path, method, note in report.parts:
        if note:
            yield Text(f"capture of {path or 'the model'}: {method}: {note}", style="dim")


def _groups(groups: Sequence[GroupReport], *, details: bool) -> Table:
    """Returns the table of channel groups: what shrinks together, to what width, and in detail what that saves."""
    table = Table(
        title="Channel groups: what shrinks together, full width → slice",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("group", overflow="fold")
    table.add_column("members", overflow="fold")
    for name in ("units", "width", "starts", *(("FLOPs of its layers", "activations") if details else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sliced, or why not", overflow="fold")
    for group in groups:
        if not group.members:
            continue
        width = str(group.width) if group.slice_width is None else f"{group.width} → {group.slice_width}"
        saved = (
            human_change(group.before.total, group.after.total),
            f"{human_change(group.bytes_before, group.bytes_after)}B",
        )
        table.add_row(
            group.name,
            ", ".join(_short(group.members)),
            str(group.units),
            width,
            "" if group.starts is None else str(group.starts),
            *(saved if details else ()),
            group.reason or Text(group.sliced_by, style="green"),
            style="dim" if group.reason else None,
        )
    return table


def _short(names: Sequence[str]) -> list[str]:
    """Returns names without the path that all of them share."""
    parts = [name.split(".") for name in names]
    shared = len(os.path.commonprefix([path[:-1] for path in parts]))
    return [".".join(path[shared:]) for path in parts]


def _stopped(groups: Sequence[GroupReport], most: int = 6) -> Iterator[Text]:
    """Yields for each reason the layers whose output channels no group slices."""
    by_reason: dict[str, list[str]] = {}
    for group in groups:
        if not group.members:
            by_reason.setdefault(group.reason, []).append(group.name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - most} more" if len(names) > most else ""
        yield Text(f"in no group: {', '.join(names[:most])}{more}: {reason}", style="dim")


def _row(layer: LayerReport, *, details: bool) -> list[str | Text]:
    cells: list[str | Text] = [layer.name, layer.type]
    cells.append("?" if layer.output_shape is None else "×".join(map(str, layer.output_shape)))
    for name in ("forward", "grad_input", "grad_weight"):
        before = getattr(layer.before, name) if layer.before else None
        after = getattr(layer.after, name) if layer.after else None
        cells.append(human_change(before, after))
    reason = layer.reason if details else layer.reason.partition(":")[0].partition(" (")[0]
    cells.append(reason or Text(layer.rewritten_by, style="green"))
    return cells


def _totals(report: Report) -> Text:
    before, after = report.before, report.after
    lines = []
    for options in report.passes:
        count = sum(options["name"] in layer.passes for layer in report.layers)
        rate = f"mean rate {options['mean_rate']:.2g}"
        lines.append(
            f"{options['name']}: {count} of {len(report.layers)} layers, {rate}, "
            f"saves {human(report.saved_by(options['name']))} FLOPs per step"
        )
    if before.total:
        share = f" (backward {after.backward / before.backward:.0%})" if before.backward else ""
        lines.append(
            f"training step: {human_change(before.total, after.total)} FLOPs, "
            f"{after.total / before.total:.0%} of dense{share}, counted from shapes"
        )
    if report.judged_for:
        lines.append(f"what pays was decided for {report.judged_for}")
    if not report.complete:
        lines.append("FLOPs of some layers are unknown: give optimize(..., example_inputs=...)")
    return Text("\n".join(lines))
