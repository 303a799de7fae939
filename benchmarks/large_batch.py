"""What it takes to reach a target with batches 32 times as large, with extrapolation and without.

    python benchmarks/large_batch.py --json out.json            # everything, 3 seeds: 1 to 2 hours on 2 CPU cores
    python benchmarks/large_batch.py --json out.json --resume   # go on after it was stopped
    python benchmarks/large_batch.py --task digits              # a quarter of an hour
    python benchmarks/large_batch.py --quick                    # does it run?

Two tasks: scikit-learn's digits with a small Wide ResNet, and a byte-level GPT on the source text of Python's standard
library; both with SGD and Nesterov's momentum. At the usual batch the learning rate is the best of some. At the large
batch it rises over a warm-up and then stays: in one row at 32 times the rate of the usual batch (linear scaling), in
all others at the best of several shares of that, which every arm chooses for itself. Rates are chosen with seed 0, by
the epochs to the target; the figures are of the seeds after it. Rates do not decay, so that when the target is reached
does not depend on when the training was planned to end.

Energy is modelled from the CPU seconds of the training process, without evaluations (`ecograph/cost/energy.py`). What a
large batch gains by running on many workers at once is in no figure here: the question is what it costs.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import target
import torch
from processes import outcomes, workers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from target import Arm, Attempt, Goal
from tasks.results import Results, ResultsError

FACTOR = 32

GOALS: dict[str, Goal] = {
    # 539 images: a usual batch of 8, so that 32 times as many are not more than all of them.
    "digits": Goal(
        options=(("widths", (32, 64, 128)),), batch=8, epoch=512, target=98.0, budget=60, warmup=5,
        rates=(0.005, 0.01, 0.02, 0.04), scales=(1, 1 / 2, 1 / 4, 1 / 8, 1 / 16), weight_decay=5e-4,
    ),
    "text": Goal(
        options=(("width", 96), ("heads", 4), ("depth", 2)), batch=8, epoch=480, target=2.6, budget=60, warmup=3,
        rates=(0.03, 0.1, 0.3), scales=(1, 1 / 4, 1 / 8, 1 / 16, 1 / 32), clip=1.0,
    ),
}  # fmt: skip

SMALL, LINEAR, LARGE = "small", "linear", "large"

ARMS: dict[str, Arm] = {
    SMALL: Arm("SGD, usual batch", 1),
    LINEAR: Arm("SGD, linear scaling", FACTOR, tuned=False),
    LARGE: Arm("SGD", FACTOR),
    "past-0.25": Arm("past, radius 0.25 x rate", FACTOR, radius=0.25),
    "past-1": Arm("past, radius 1 x rate", FACTOR, radius=1.0),
    "past-4": Arm("past, radius 4 x rate", FACTOR, radius=4.0),
    "past-1-early": Arm("past, radius 1 x rate, 10 epochs", FACTOR, radius=1.0, until=10),
    "noise-0.01": Arm("noise, radius 0.01", FACTOR, radius=0.01, direction="noise"),
    "noise-0.05": Arm("noise, radius 0.05", FACTOR, radius=0.05, direction="noise"),
}


def quick(goal: Goal) -> Goal:
    """Returns a goal that is reached or missed in seconds."""
    small = {"widths": (32, 32), "width": 32, "heads": 2, "depth": 1}
    options = tuple((name, small[name]) for name, _ in goal.options)
    easy = 40.0 if goal.target > 10 else 4.5
    return replace(
        goal, options=options, target=easy, budget=3, warmup=1, rates=goal.rates[-1:], scales=goal.scales[-1:]
    )


def candidates(task: str, goal: Goal, name: str, base: float) -> list[Attempt]:
    """Returns the trainings among which an arm's learning rate is chosen.

    Args:
        task: key in ``GOALS``.
        goal: what is to be reached.
        name: key in ``ARMS``.
        base: the learning rate that was chosen at the usual batch.
    """
    way = ARMS[name]
    rates = [way.factor * base]
    if way.tuned:
        rates = list(goal.rates) if way.factor == 1 else [way.factor * base * scale for scale in goal.scales]
    return [Attempt(task, goal, way, name, rate, seed=0) for rate in rates]


def merit(run: dict[str, Any], sign: int) -> tuple[float, ...]:
    """Returns what is smaller for a better run: by epochs to the target, then by how near it came.

    Args:
        run: a finished one.
        sign: 1 where more of the metric is better, -1 where less is.
    """
    if run["reached"]:
        return (0.0, run["epochs"])
    return (1.0, float("inf") if run["best"] is None else -sign * run["best"])


class Runner:
    """Does trainings that are not done yet, with a progress bar.

    Args:
        results: those that are.
        pool: where to; None: here.
        progress: the bar.
    """

    def __init__(self, results: Results, pool: Executor | None, progress: Progress) -> None:
        self.results = results
        self._pool = pool
        self._progress = progress
        self._bar = progress.add_task("training", total=0)

    def finish(self, attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
        """Returns the runs of ``attempts``, in their order."""
        todo = [each for each in dict.fromkeys(attempts) if self.results.find(each) is None]  # type: ignore[arg-type]
        self._progress.update(self._bar, total=(self._progress.tasks[self._bar].total or 0) + len(todo))
        for done in outcomes(target.run, todo, self._pool):
            self.results.add(done)
            text = f"the last: {done['task']}, {done['arm']}, seed {done['seed']}"
            self._progress.update(self._bar, advance=1, description=text)
        found = [self.results.find(each) for each in attempts]  # type: ignore[arg-type]
        return [run for run in found if run is not None]


def compare(runner: Runner, task: str, goal: Goal, names: Sequence[str], seeds: int) -> list[dict[str, Any]]:
    """Chooses every arm's learning rate with seed 0, trains it with the seeds after that, and returns the rows."""
    sign = 1 if target.make_task(task, goal.options).higher_is_better else -1

    def best(attempts: Sequence[Attempt]) -> Attempt:
        runs = runner.finish(attempts)
        return min(zip(attempts, runs, strict=True), key=lambda pair: merit(pair[1], sign))[0]

    small = best(candidates(task, goal, SMALL, 0.0))
    others = [name for name in names if name != SMALL]
    tried = {name: candidates(task, goal, name, small.rate) for name in others}
    runner.finish([each for attempts in tried.values() for each in attempts])  # all at once: no process waits
    chosen = {SMALL: small} | {name: best(attempts) for name, attempts in tried.items()}
    again = {name: [replace(each, seed=seed + 1) for seed in range(seeds)] for name, each in chosen.items()}
    turns = [again[name][seed] for seed in range(seeds) for name in chosen]
    runner.finish(turns)
    grid = {name: [each.rate for each in attempts] for name, attempts in tried.items()} | {SMALL: list(goal.rates)}
    rows = []
    for name, attempt in chosen.items():
        at_edge = len(grid[name]) > 1 and attempt.rate in (min(grid[name]), max(grid[name]))
        rows.append({**row(attempt, runner.finish(again[name])), "rate_at_edge": at_edge})
    return rows


def row(attempt: Attempt, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures of an arm. Means are of all seeds, and None unless all of them reached the target."""
    made: dict[str, Any] = {
        "task": attempt.task, "arm": attempt.name, "batch": attempt.batch, "rate": attempt.rate,
        "seeds": len(runs), "reached": sum(run["reached"] for run in runs),
        "energy_source": runs[0]["energy_source"], "best": [run["best"] for run in runs],
    }  # fmt: skip
    complete = made["reached"] == len(runs)
    for key in ("epochs", "taken", "cpu_seconds", "joules"):
        values = [run[key] for run in runs]
        made[key] = mean(values) if complete else None
        made[f"{key}_std"] = stdev(values) if complete and len(values) > 1 else None
    return made


def table(task: str, goal: Goal, rows: Sequence[dict[str, Any]]) -> Table:
    """Renders the rows of a task."""
    made_task = target.make_task(task, goal.options)
    sources = ", ".join(sorted({each["energy_source"] for each in rows}))
    made = Table(
        title=f"{task}: to {made_task.metric} {goal.target:g} within {goal.budget} epochs, seeds: {rows[0]['seeds']}",
        caption=f"energy: {sources}. * the best learning rate is at the edge of those tried. ±: standard deviation",
    )
    made.add_column("arm")
    columns = ("batch", "learning rate", "reached", "best", "epochs", "steps", "CPU seconds", "energy, J")
    for column in (*columns, "of usual", "of large"):
        made.add_column(column, justify="right")
    joules = {each["arm"]: each["joules"] for each in rows}

    def number(each: dict[str, Any], key: str, form: str) -> str:
        if each[key] is None:
            return "-"
        error = each[f"{key}_std"]
        return f"{each[key]:{form}}" + ("" if error is None else f" ± {error:{form}}")

    def best(each: dict[str, Any]) -> str:
        values = [value for value in each["best"] if value is not None]
        return f"{mean(values):.{made_task.decimals}f}" if len(values) == each["seeds"] else "-"

    def share(each: dict[str, Any], other: str) -> str:
        against = joules.get(other)
        return "-" if each["joules"] is None or not against else f"{each['joules'] / against:.2f}"

    for each in rows:
        made.add_row(
            ARMS[each["arm"]].title, str(each["batch"]), f"{each['rate']:g}{'*' if each['rate_at_edge'] else ''}",
            f"{each['reached']}/{each['seeds']}", best(each), number(each, "epochs", ".1f"),
            number(each, "taken", ".0f"), number(each, "cpu_seconds", ".1f"), number(each, "joules", ".0f"),
            share(each, SMALL), share(each, LARGE),
            end_section=each["arm"] in (SMALL, LARGE),
        )  # fmt: skip
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", nargs="*", default=list(GOALS), choices=GOALS, help="default: all")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm, besides those for its rate")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each in a process with one thread")
    parser.add_argument("--quick", action="store_true", help="tiny models, few arms, one seed: does it run?")
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file, after each training")
    parser.add_argument("--resume", action="store_true", help="keep the trainings that the file already has")
    args = parser.parse_args(arguments)
    if args.resume and args.json is None:
        parser.error("--resume needs --json, the file to go on with")
    names = [name for name in ARMS if name in (SMALL, LARGE, *args.arms)]
    goals = {task: GOALS[task] for task in args.task}
    seeds = max(1, args.seeds)
    if args.quick:
        goals = {task: quick(goal) for task, goal in goals.items()}
        names = [name for name in names if name in (SMALL, LARGE, "past-1", "noise-0.01")]
        seeds = 1
    settings = {
        "tasks": {task: goal.to_dict() for task, goal in goals.items()},
        "arms": {name: asdict(ARMS[name]) for name in names},
    }
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come; torch sizes some pools before it can be told
    torch.set_num_threads(1)  # before the machine is described, with its threads
    try:
        results = Results(args.json, settings, resume=args.resume)
    except ResultsError as error:
        parser.error(str(error))
    rows: dict[str, list[dict[str, Any]]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # The bar is drawn rarely: with one process its thread is in the CPU time that is measured.
    with Progress(*columns, transient=True, refresh_per_second=1) as progress, workers(args.jobs) as pool:
        runner = Runner(results, pool, progress)
        for task, goal in goals.items():
            rows[task] = compare(runner, task, goal, names, seeds)
    results.write(summary=rows)
    console = Console(width=160)
    for task, goal in goals.items():
        console.print(table(task, goal, rows[task]))


if __name__ == "__main__":
    main()
