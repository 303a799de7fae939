"""Drawing a search: energy against the metric, and what matters. Needs matplotlib, of the extra ``sweep``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecograph.sweeps.result import Sweep

BLUE, ORANGE, GREY = "#1f5fbf", "#d9822b", "#9aa3b0"


def pareto(sweep: Sweep) -> Any:
    """Returns a figure: every training's way from joules to the metric, the front, the target and the best setting."""
    figure, axes = _figure()
    for row in sweep.rows:
        points = [(joules, value) for joules, _, value in row.attempt.curve if joules is not None and value is not None]
        if points:
            colour = BLUE if row.cost is not None else GREY
            axes.plot(*zip(*points, strict=True), color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(*points[-1], ".", color=colour, markersize=6)
    front = sweep.front()
    if front:
        axes.step(
            [joules for joules, _, _ in front], [value for _, value, _ in front], where="post", color=ORANGE,
            linewidth=2, label="Pareto front",
        )  # fmt: skip
    axes.axhline(sweep.target.number, color="black", linestyle=":", linewidth=1, label=f"target: {sweep.target}")
    best = sweep.best
    if best is not None and best.attempt.curve[-1][0] is not None:
        axes.plot(
            [best.attempt.curve[-1][0]],
            [best.attempt.curve[-1][2]],
            "*",
            color=ORANGE,
            markersize=14,
            label="best setting",
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"energy, J ({sweep.energy_source.partition(':')[0] or 'unknown'})")
    axes.set_ylabel(sweep.target.name)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def importance(sweep: Sweep) -> Any:
    """Returns a figure with a bar for each parameter."""
    figure, axes = _figure(height=0.6 + 0.4 * max(1, len(sweep.importance)))
    ranked = sorted(sweep.importance.items(), key=lambda each: each[1])
    axes.barh([name for name, _ in ranked], [share for _, share in ranked], color=BLUE)
    axes.set_xlabel("importance")
    figure.tight_layout()
    return figure


def svg(figure: Any) -> str:
    """Returns a figure as an SVG element, the same for the same figure."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return drawn[drawn.index("<svg") :]


def save(figure: Any, path: Path) -> None:
    """Writes a figure to a file, in the format of its ending."""
    figure.savefig(path, dpi=150)


def _figure(height: float = 4.2) -> tuple[Any, Any]:
    try:
        from matplotlib import rcParams
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'ecograph[sweep]'") from error
    rcParams["svg.hashsalt"] = "ecograph"
    figure = Figure(figsize=(7, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
