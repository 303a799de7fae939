"""The tables of an estimate, with rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from ecograph.report_table import human, human_change

if TYPE_CHECKING:
    from ecograph.cost.estimate.result import Amount, Amounts, Estimate, LayerCost

#: Layers that are shown; the rest is summed up in a row.
MOST_LAYERS = 30
#: Characters of a bar.
BAR = 16
WIDE = 110
#: Columns below which calls are not shown.
NARROW = 90


def render(estimate: Estimate, width: int) -> Iterator[Table | Text]:
    """Yields what is printed: the step by phases, the layers by what they take, the passes, and the notes.

    Args:
        estimate: what to print.
        width: columns there are.
    """
    yield _phases(estimate, narrow=width < NARROW)
    yield _layers(estimate, wide=width >= WIDE)
    if estimate.passes:
        yield _passes(estimate, narrow=width < NARROW)
    yield _foot(estimate)


def _phases(estimate: Estimate, *, narrow: bool) -> Table:
    table = _table(f"{estimate.model}: a training step on {estimate.device.title}")
    table.add_column("phase", no_wrap=True)
    names = ("time", "energy", "FLOPs", "bytes") if narrow else ("time", "energy", "FLOPs", "bytes", "calls")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for phase, before in estimate.before.items():
        table.add_row(phase, *_cells(before, estimate.after.get(phase))[: len(names)])
    cells = _cells(estimate.total_before, estimate.total_after)
    table.add_row("step", *cells[: len(names)], style="bold")
    return table


def _cells(before: Amount, after: Amount | None) -> list[str]:
    after = after or before
    return [
        change(before.seconds, after.seconds, TIME),
        change(before.joules, after.joules, ENERGY),
        human_change(round(before.flops), round(after.flops)),
        f"{human_change(round(before.bytes), round(after.bytes))}B",
        change(round(before.calls), round(after.calls), COUNT),
    ]


def _layers(estimate: Estimate, *, wide: bool) -> Table:
    """Returns the table of layers; the optimizer's step, which may take longer than all of them, is none."""
    taken = {layer.name: (_in_layer(layer.before), _in_layer(layer.after)) for layer in estimate.layers}
    ranked = sorted(estimate.layers, key=lambda layer: -taken[layer.name][0])
    most = taken[ranked[0].name][0] if ranked else 0.0
    whole = estimate.total_before.seconds
    table = _table("Layers, by what they take")
    table.add_column("layer", overflow="fold")
    if wide:
        table.add_column("type", no_wrap=True)
    table.add_column("forward", justify="right", no_wrap=True)
    table.add_column("backward", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for layer in ranked[:MOST_LAYERS]:
        before, after = taken[layer.name]
        table.add_row(
            *([layer.name or "(outside of layers)"] + ([layer.type] if wide else [])),
            _phase_change(layer, "forward"),
            _phase_change(layer, "backward"),
            f"{before / whole:.1%}" if whole else "",
            bar(before, after, most),
        )
    rest, empty = ranked[MOST_LAYERS:], [""] * (3 if wide else 2)
    if rest:
        share = sum(taken[layer.name][0] for layer in rest) / whole
        table.add_row(f"and {len(rest)} more", *empty, f"{share:.1%}", "", style="dim")
    if optimizer := estimate.before.get("optimizer"):
        table.add_row("(optimizer)", *empty, f"{optimizer.seconds / whole:.1%}", "", style="dim")
    return table


def _in_layer(amounts: Amounts) -> float:
    return sum(amount.seconds for phase, amount in amounts.items() if phase != "optimizer")


def _phase_change(layer: LayerCost, phase: str) -> str:
    def of(amounts: Amounts) -> float:
        return sum(amount.seconds for name, amount in amounts.items() if name == phase or (name, phase) == _AGAIN)

    before, after = of(layer.before), of(layer.after)
    return change(before, after, TIME) if before or after else ""


#: A forward that runs again is part of the backward.
_AGAIN = ("recomputed", "backward")


def _passes(estimate: Estimate, *, narrow: bool) -> Table:
    table = _table("Passes: what each saves in a step, on average over its schedule")
    table.add_column("pass")
    for name in ("time", "energy", "FLOPs", "at its peak") + (() if narrow else ("bytes",)):
        table.add_column(name, justify="right", no_wrap=True)
    whole = estimate.total_before
    for each in estimate.passes:
        cells = [
            f"{duration(each.saved.seconds)} {each.saved.seconds / whole.seconds:.0%}",
            f"{energy(each.saved.joules)} {each.saved.joules / whole.joules:.0%}" if whole.joules else "unknown",
            f"{human(round(each.saved.flops))} {each.saved.flops / whole.flops:.0%}" if whole.flops else "0",
            f"{duration(each.peak.seconds)} {each.peak.seconds / whole.seconds:.0%}",
            f"{human(round(each.saved.bytes))}B",
        ]
        table.add_row(each.name, *cells[:4] if narrow else cells)
    return table


def _foot(estimate: Estimate) -> Text:
    before, after = estimate.memory_before, estimate.memory_after
    held = f"{human_change(round(before.activations), round(after.activations))}B"
    lines = [
        f"memory: activations and gradients {held} at the peak, parameters {human(before.parameters)}B"
        + (f", optimizer {human(before.optimizer)}B" if before.optimizer else ""),
        f"FLOPs and bytes are counted from shapes; times and energy are {estimate.source.replace(':', ', ', 1)}",
        *estimate.notes,
    ]
    return Text("\n".join(lines), style="dim")


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


#: Units, from the largest, with what each is of the unit of measure.
Units = tuple[tuple[str, float], ...]
TIME: Units = ((" s", 1.0), (" ms", 1e-3), (" µs", 1e-6))
ENERGY: Units = ((" kJ", 1e3), (" J", 1.0), (" mJ", 1e-3), (" µJ", 1e-6))
COUNT: Units = (("", 1.0),)


def change(before: float, after: float, units: Units) -> str:
    """Returns two figures in the unit of the larger, with an arrow between them; one where they show the same."""
    unit, factor = _unit(max(abs(before), abs(after)), units)
    first, second = (_digits(value / factor) for value in (before, after))
    return f"{first if first == second else f'{first} → {second}'}{unit}"


def _unit(size: float, units: Units) -> tuple[str, float]:
    return next((each for each in units if size >= each[1] * 0.9995), units[-1])


def _digits(value: float) -> str:
    """Returns three digits, or all that are before the point."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def bar(before: float, after: float, most: float) -> Text:
    """Returns a bar as long as ``before`` is next to ``most``, of which what is saved is pale."""
    if most <= 0:
        return Text()
    length = max(1, round(BAR * before / most))
    kept = min(length, round(length * after / before)) if before else length
    return Text.assemble(("█" * kept, "green"), ("░" * (length - kept), "green dim"))


def duration(seconds: float) -> str:
    """Returns a time for people: ``"1.42 ms"``."""
    return change(seconds, seconds, TIME)


def energy(joules: float) -> str:
    """Returns an energy for people: ``"1.42 mJ"``."""
    return change(joules, joules, ENERGY)
