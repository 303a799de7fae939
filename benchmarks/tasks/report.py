"""The table of arms: how good, how cheap, and how far from dense training and from dense training that does less."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from tasks.arms import ARMS, DENSE, Planned
from tasks.task import Task

#: (arm, steps) -> its runs, in the order of seeds.
Find = Callable[[str, int], Sequence[dict[str, Any]]]


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """Returns how far ``first`` is above ``second`` on average, and the standard error of that.

    The figures are paired: runs with the same seed share initial weights and batches. The error is None for one pair.
    """
    apart = [a - b for a, b in zip(first, second, strict=True)]
    return mean(apart), stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else None


def rows(task: Task, planned: Sequence[Planned], find: Find) -> list[dict[str, Any]]:
    """Returns a row of figures for each arm, with its control's beside them.

    Args:
        task: what was trained.
        planned: the arms.
        find: the runs; at least those of the arms, their controls and dense training.
    """
    dense = find(DENSE, task.steps)
    made = []
    for item in planned:
        runs, control = find(item.arm, item.steps), find(DENSE, item.control_steps)
        row: dict[str, Any] = {"task": task.name, "metric": task.metric, "arm": item.arm, "seeds": len(runs)}
        row |= {"flops_share": item.flops_share, "flops_source": "counted", **_outcome("", item.steps, runs, dense)}
        if item.arm != DENSE:
            row |= _outcome("control_", item.control_steps, control, dense)
            row["against_dense"], row["against_dense_error"] = _apart(runs, dense)
            row["against_control"], row["against_control_error"] = _apart(runs, control)
            row["control_against_dense"], row["control_against_dense_error"] = _apart(control, dense)
        made.append(row)
    return made


def _outcome(
    prefix: str, steps: int, runs: Sequence[dict[str, Any]], dense: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    values = [run["value"] for run in runs]
    seconds = mean(run["cpu_seconds"] for run in runs)
    return {
        f"{prefix}steps": steps,
        f"{prefix}mean": mean(values),
        f"{prefix}std": stdev(values) if len(values) > 1 else None,
        f"{prefix}cpu_seconds": seconds,
        f"{prefix}cpu_share": seconds / mean(run["cpu_seconds"] for run in dense),
    }


def _apart(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> tuple[float, float | None]:
    return difference([run["value"] for run in first], [run["value"] for run in second])


def table(task: Task, rows: Sequence[dict[str, Any]]) -> Table:
    """Renders the rows of a task; under each arm stands its control."""
    better = "higher" if task.higher_is_better else "lower"
    made = Table(
        title=f"{task.name}: {task.metric} ({better} is better), seeds: {rows[0]['seeds']}",
        caption="± beside a mean: standard deviation over seeds; beside a difference: its standard error, paired",
    )
    made.add_column("arm")
    for column in ("steps", "FLOPs", "CPU seconds", "CPU", "mean", "less dense", "less control"):
        made.add_column(column, justify="right")

    def number(value: float, error: float | None, sign: str = "") -> str:
        return f"{value:{sign}.{task.decimals}f}" + (" ± ?" if error is None else f" ± {error:.{task.decimals}f}")

    for row in rows:
        steps, fewer = row["steps"], row.get("control_steps", 0)
        against = ["", ""]
        if row["arm"] != DENSE:
            against = [number(row[f"against_{o}"], row[f"against_{o}_error"], "+") for o in ("dense", "control")]
        made.add_row(
            ARMS[row["arm"]].title, f"{steps}", f"{row['flops_share']:.0%}", f"{row['cpu_seconds']:.1f}",
            f"{row['cpu_share']:.0%}", number(row["mean"], row["std"]), *against, end_section=row["arm"] == DENSE,
        )  # fmt: skip
        if row["arm"] != DENSE:
            made.add_row(
                "  control: dense, fewer steps", f"{fewer}", f"{fewer / steps:.0%}",
                f"{row['control_cpu_seconds']:.1f}", f"{row['control_cpu_share']:.0%}",
                number(row["control_mean"], row["control_std"]),
                number(row["control_against_dense"], row["control_against_dense_error"], "+"), "", end_section=True,
            )  # fmt: skip
    return made
