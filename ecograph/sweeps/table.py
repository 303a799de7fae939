"""Showing a search, with rich."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from ecograph.cost.estimate.table import bar
from ecograph.cost.meter.used import digits, joules_text, kinds
from ecograph.report_table import human
from ecograph.sweeps.space import Values, label
from ecograph.sweeps.target import QUANTITIES

if TYPE_CHECKING:
    from ecograph.sweeps.result import Row, Sweep

#: Settings that are shown beside the dearest one.
MOST = 12


def render(sweep: Sweep) -> Iterator[Table | Text]:
    """Yields the probes, the settings by what they cost, what matters, and what it all comes to."""
    if sweep.probes.get("batches"):
        yield _probes(sweep)
    if sweep.rows:
        yield _settings(sweep)
    if sweep.importance:
        yield _importance(sweep)
    yield Text("\n".join(conclusions(sweep)))


def amount(value: float | None, quantity: str) -> str:
    """Returns an amount of what is minimized for people."""
    if value is None:
        return "unknown"
    if quantity == "energy":
        return joules_text(value)
    if quantity == "flops":
        return f"{human(round(value))} FLOPs"
    return f"{digits(value)} {QUANTITIES[quantity]}".strip()


def setting(values: Values) -> str:
    """Returns a setting in a line."""
    return ", ".join(f"{_short(name)} {_value(value)}" for name, value in values.items())


def _short(name: str) -> str:
    """Returns a key of a job in short: ``optimizer`` for ``optimizer.name``, ``lr`` for ``optimizer.lr``."""
    *tables, last = name.split(".")
    return tables[-1] if tables and last in ("name", "spec") else last


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else label(value)


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _probes(sweep: Sweep) -> Table:
    table = _table("Probes: what a batch size costs")
    for name in ("batch size", "samples/s", "energy per sample", "waiting for data"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in sweep.probes["batches"]:
        if each.get("infeasible"):
            table.add_row(str(each["batch_size"]), "infeasible", Text(each["infeasible"], overflow="ellipsis"), "")
            continue
        joules = each["joules_per_sample"]
        per_sample = "unknown" if joules is None else f"{digits(1000 * joules)} mJ"
        table.add_row(
            str(each["batch_size"]), digits(each["samples_per_second"]), per_sample, f"{each['loader_share']:.0%}"
        )
    return table


def _settings(sweep: Sweep) -> Table:
    source = " + ".join(kinds(sweep.energy_source)) or "unknown"
    noun = sweep.minimize if sweep.minimize in ("time", "flops") else f"{sweep.minimize}, {source}"
    table = _table(f"{sweep.name}: {len(sweep.rows)} settings, {len(sweep.reached)} reached {sweep.target}")
    table.add_column("trial", justify="right")
    table.add_column("setting", min_width=30)
    table.add_column("seeds\nreached", justify="right", no_wrap=True)
    table.add_column(f"to the target\n{noun}", justify="right", no_wrap=True)
    table.add_column("times\nthe best", justify="right", no_wrap=True)
    table.add_column("epochs", justify="right")
    table.add_column("best\nvalue", justify="right")
    best = sweep.best
    reached = sorted(sweep.reached, key=lambda row: (row is not best, row.cost or math.inf))
    shown = reached if len(reached) <= MOST else [*reached[: MOST - 1], reached[-1]]
    for row in shown:
        if row is shown[-1] and len(reached) > MOST:
            table.add_row("", f"and {len(reached) - MOST} more", "", "", "", "", "", style="dim")
        table.add_row(*_cells(sweep, row), style="bold" if row is best else "")
    others = [row for row in sweep.rows if row.cost is None]
    for outcome in dict.fromkeys(row.attempt.outcome for row in others):
        of = [row for row in others if row.attempt.outcome == outcome]
        values = [row.attempt.best for row in of if row.attempt.best is not None]
        top = min(values, key=sweep.target.shortfall, default=None)
        numbers = ", ".join(str(row.number) for row in of[:8]) + (" ..." if len(of) > 8 else "")
        reason = next((f": {row.attempt.reason}" for row in of if row.attempt.reason), "")
        cells = f"{outcome}: trials {numbers}{reason}", "", "", "", "", "" if top is None else f"{top:.4g}"
        table.add_row("", *cells, style="dim")
    return table


def _cells(sweep: Sweep, row: Row) -> list[str]:
    best = sweep.best
    times = "" if best is None or not best.cost else f"{(row.cost or 0.0) / best.cost:.2f}x"
    value = "" if row.attempt.best is None else f"{row.attempt.best:.4g}"
    cost = amount(row.cost, sweep.minimize)
    seeds = f"{round(row.share_reached * len(row.attempts))} of {len(row.attempts)}"
    return [str(row.number), setting(row.values), seeds, cost, times, str(row.attempt.epochs), value]


def _importance(sweep: Sweep) -> Table:
    table = _table("What matters, among the settings that reached the target")
    table.add_column("parameter")
    table.add_column("importance", justify="right")
    table.add_column("")
    most = max(sweep.importance.values())
    for name, share in sorted(sweep.importance.items(), key=lambda each: -each[1]):
        table.add_row(name, f"{share:.0%}", bar(share, share, most))
    return table


def conclusions(sweep: Sweep) -> list[str]:
    """Returns what came of it, in sentences."""
    lines = list(sweep.probes.get("warnings", []))
    if (lr := sweep.probes.get("lr")) is not None:
        lines.append(f"range test: the loss falls fastest at a learning rate near {lr['suggested']:.2g}")
    search = f"the search took {amount(sweep.search_cost, sweep.minimize)}"
    best = sweep.best
    if best is None:
        values = [row.attempt.best for row in sweep.rows if row.attempt.best is not None]
        near = min(values, key=sweep.target.shortfall, default=None)
        came = "" if near is None else f"; the nearest came to {near:.4g}"
        fix = "lower the target, allow more epochs, or widen the space"
        lines.append(f"no setting reached {sweep.target}{came}: {fix}")
        return [*lines, search] if sweep.search_cost is not None else lines
    promised = amount(best.cost, sweep.minimize)
    seeds = ", from one seed"
    if best.confirmations:
        seeds = f", the mean of {len(best.confirmations)} seeds that it was not chosen by"
    elif best.repeats:
        seeds = f", the mean of {len(best.attempts)} seeds"
    lines.append(f"best: trial {best.number}, {promised} to {sweep.target}{seeds}: {setting(best.values)}")
    if best.share_reached < 1:
        lines.append(f"it reached the target from {best.share_reached:.0%} of its seeds only")
    if sweep.spread is not None and len(sweep.reached) > 1:
        lines.append(f"the dearest setting that reached the target took {sweep.spread:.1f} times as much")
    if sweep.search_cost is not None:
        name, cost = sweep.compared_with
        after = sweep.pays_back_after
        pays = "it does not pay back" if after is None else f"it pays back after {math.ceil(after)} trainings"
        lines.append(f"{search}; next to {name} ({amount(cost, sweep.minimize)}) {pays}")
    lines.append(f"energy: {sweep.energy_source or 'unknown'}")
    return lines
