"""What every method costs next to the dense frontier: energy, CPU time and FLOPs at equal quality, with an interval.

    python benchmarks/frontier.py --short --json out.json    # all tasks, small: under 10 minutes on 2 CPU cores
    python benchmarks/frontier.py --json out.json            # all tasks, in earnest: days; stop it whenever you like
    python benchmarks/frontier.py --json out.json --resume   # and go on
    python benchmarks/frontier.py --short --task digits --seeds 5
    python benchmarks/frontier_page.py out.json              # plots and benchmarks/README.md of results

Tasks that need no download: handwritten digits; drawn characters (72 classes); a byte-level GPT on the source of the
standard library; a small DDPM of characters; segmentation of scenes of characters. And CIFAR-10 and CIFAR-100, by name,
for those who have the files (see tasks/cifar.py).

The dense frontier is dense training with 25 to 100% of the steps, each with the whole of a learning-rate schedule. In
the long form every point of it, and every method, has its learning rate tuned among some factors, on a seed of its own,
so that nobody is judged by another's. What a training takes is measured apart, in short trainings that take turns
(tasks/costs.py), so that it does not matter what else the machine did meanwhile. The figure of merit of a method is
what it costs next to what dense training costs that comes as far (tasks/merit.py).
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from processes import outcomes, workers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tasks.costs import costs
from tasks.merit import Merit, merit
from tasks.results import Results, ResultsError
from tasks.sizes import SIZES, make_task
from tasks.ways import DENSE, FREE, WAYS, Run, run, share_of_flops

import ecograph

SHARES = {"long": (0.25, 0.4, 0.55, 0.7, 0.85, 1.0), "short": (0.25, 0.55, 1.0)}
FACTORS = {"long": (0.5, 1.0, 2.0), "short": (1.0,)}
SEEDS = {"long": 5, "short": 3}
ROUNDS = {"long": 5, "short": 3}
#: Ways of the short form; the long one has all.
SHORT = (DENSE, FREE, "sparse-0.8", "sparse-0.8-free", "gradsamp-4", "slice-0.25")
#: The seed that learning rates are tuned on.
TUNING = 1000
COSTS = ("joules", "cpu_seconds", "flops")
#: Those that need files.
ASKED_FOR = ("cifar10", "cifar100")


class Frontier:
    """The trainings of a task, and what comes of them.

    Args:
        name: of the task.
        size: "short" or "long".
        ways: to be measured, beside the frontiers.
        seeds: how many.
        shares: of the steps, for the dense frontiers.
        factors: of the learning rate, to be tried.
        results: of trainings.
    """

    def __init__(
        self, name: str, size: str, ways: Sequence[str], seeds: int, shares: Sequence[float], factors: Sequence[float],
        results: Results,
    ) -> None:  # fmt: skip
        """Counts FLOPs; nothing is trained yet."""
        self.name, self.size, self.seeds, self.factors = name, size, seeds, factors
        self.task = make_task(name, size)
        self._results = results
        self.flops = {way: share_of_flops(self.task, WAYS[way]) for way in dict.fromkeys((DENSE, *ways))}
        self.ways = list(dict.fromkeys((DENSE, *ways)))
        self.points = [(way, share) for way in self.ways for share in (shares if way in (DENSE, FREE) else (1.0,))]
        self._trained = [(way, share) for way, share in self.points if not WAYS[way].trains_as]

    def tuning(self) -> list[Run]:
        """Returns the trainings by which learning rates are chosen; none where there is no choice."""
        if len(self.factors) < 2:
            return []
        return [self._run(way, share, TUNING, factor) for way, share in self._trained for factor in self.factors]

    def trainings(self) -> list[Run]:
        """Returns the trainings that count, at the learning rates that were chosen; seed by seed."""
        return [
            self._run(way, share, seed, self._factor(way, share))
            for seed in range(self.seeds)
            for way, share in self._trained
        ]

    def frontier(self, way: str, cost: str) -> list[dict[int, tuple[float, float]]]:
        """Returns the points of a dense frontier."""
        return [self._point(each, share, cost) for each, share in self.points if each == way]

    def rows(self) -> list[dict[str, Any]]:
        """Returns the figures of every point that was trained, as JSON types."""
        found = []
        full = self._point(DENSE, 1.0, "joules")
        for way, share in self.points:
            points = {cost: self._point(way, share, cost) for cost in COSTS}
            if not points["flops"]:
                continue
            values = [value for _, value in points["flops"].values()]
            row: dict[str, Any] = {
                "task": self.name, "way": way, "title": WAYS[way].title, "share": share, "seeds": len(values),
                "factor": self._factor(way, share), "values": values, "value": sum(values) / len(values),
            }  # fmt: skip
            for cost, point in points.items():
                row[cost] = sum(each for each, _ in point.values()) / len(point) if point else None
            if row["joules"] and full:
                row["joules_of_dense"] = row["joules"] / (sum(each for each, _ in full.values()) / len(full))
            row["merit"] = {}
            for base in (DENSE, FREE):
                if way != base and not (way == DENSE and base == FREE) and (base == DENSE or WAYS[way].free):
                    merits = {cost: self._merit(points[cost], base, cost) for cost in COSTS}
                    row["merit"][base] = {cost: each.to_dict() for cost, each in merits.items() if each is not None}
            found.append(row)
        return found

    def _merit(self, point: dict[int, tuple[float, float]], base: str, cost: str) -> Merit | None:
        frontier = [each for each in self.frontier(base, cost) if each]
        return merit(point, frontier, higher_is_better=self.task.higher_is_better) if point else None

    def _run(self, way: str, share: float, seed: int, factor: float) -> Run:
        steps = max(1, round(share * self.task.steps))
        return Run(self.name, self.size, way, seed, steps, factor, self.flops[way] * steps / self.task.steps)

    def _factor(self, way: str, share: float) -> float:
        """Returns the factor of the learning rate with the best value on the tuning seed."""
        trained = WAYS[way].trains_as or way
        tried = {f: self._results.find(self._run(trained, share, TUNING, f)) for f in self.factors}
        values = {f: each["value"] for f, each in tried.items() if each is not None and each["value"] is not None}
        if not values:
            return 1.0 if 1.0 in self.factors else self.factors[0]
        return (max if self.task.higher_is_better else min)(values, key=values.__getitem__)

    def _point(self, way: str, share: float, cost: str) -> dict[int, tuple[float, float]]:
        factor, trained = self._factor(way, share), WAYS[way].trains_as or way
        point = {}
        for seed in range(self.seeds):
            run = self._results.find(self._run(trained, share, seed, factor))
            amount = None if run is None else self._amount(way, share, cost, run)
            if run is not None and run["value"] is not None and amount is not None:
                point[seed] = amount, run["value"]
        return point

    def _amount(self, way: str, share: float, cost: str, run: dict[str, Any]) -> float | None:
        """Returns what a training takes: counted; from short trainings that took turns; or else as it was in it."""
        if cost == "flops":
            return share * self.flops[way]
        figures = self._results.costs.get(self.name, {}).get(way)
        if figures is None:
            return None if WAYS[way].trains_as else run[cost]
        return None if figures[cost] is None else share * figures[cost]


def run_all(todo: Sequence[Run], results: Results, processes: int, threads: int, title: str) -> None:
    """Does the trainings that ``results`` does not have yet, with a progress bar; each is written when it is done."""
    missing = [job for job in todo if results.find(job) is None]
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeRemainingColumn()
    with Progress(*columns, transient=True, refresh_per_second=1) as progress:
        bar = progress.add_task(title, total=sum(job.flops for job in todo) or 1.0)
        progress.advance(bar, sum(job.flops for job in todo if job not in missing))
        with workers(processes, threads) as pool:
            for outcome in outcomes(run, missing, pool):
                results.add(outcome)
                progress.update(bar, advance=outcome["flops"], description=f"{title}: {outcome['task']}")


def time_all(frontiers: Sequence[Frontier], size: str, results: Results, rounds: int) -> None:
    """Finds out what the ways of each task take, where that is not known yet."""
    missing = [each for each in frontiers if set(each.ways) - set(results.costs.get(each.name, {}))]
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeRemainingColumn()
    with Progress(*columns, transient=True, refresh_per_second=1) as progress:
        bar = progress.add_task("timing", total=sum(rounds * len(each.ways) for each in missing))
        for each in missing:

            def tell(way: str, task: str = each.name) -> None:
                progress.update(bar, advance=1, description=f"timing {task}: {way}")

            results.costs[each.name] = costs(each.name, size, each.ways, rounds, tell)
            results.write()


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Renders the rows of a task."""
    made = Table(
        title=title, caption="merit: cost at equal quality, next to the dense frontier; 95% interval over seeds"
    )
    made.add_column("way")
    for name in ("steps", "value", "energy", "FLOPs", "merit, energy", "merit, FLOPs"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("verdict on energy")
    for row in rows:
        merits = row["merit"].get(DENSE, {})
        energy = f"{row['joules_of_dense']:.0%}" if row.get("joules_of_dense") else "unknown"
        made.add_row(
            row["title"], f"{row['share']:.0%}", f"{row['value']:.2f}", energy, f"{row['flops']:.0%}",
            shown(merits.get("joules")), shown(merits.get("flops")), merits.get("joules", {}).get("verdict", ""),
        )  # fmt: skip
    return made


def shown(found: dict[str, Any] | None) -> str:
    """Returns a figure of merit for people: ``"0.83 (0.71 to 0.97)"``."""
    if not found:
        return ""
    sign = {"above": "<= ", "below": ">= "}.get(found["bound"], "")
    high = "?" if found["high"] is None else f"{found['high']:.2f}"
    return f"{sign}{found['ratio']:.2f} ({found['low']:.2f} to {high})"


def main(arguments: Sequence[str] | None = None) -> None:
    names = [name for name in SIZES if name not in ASKED_FOR]
    parser = ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true", help="small tasks, few ways and seeds")
    parser.add_argument("--task", nargs="*", default=names, choices=[*SIZES], help=f"default: {' '.join(names)}")
    parser.add_argument("--ways", nargs="*", default=None, choices=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--seeds", type=int, default=None, help="trainings of each point; default 5, or 3 with --short")
    parser.add_argument("--shares", nargs="*", type=float, default=None, help="of the steps, for the dense frontier")
    parser.add_argument("--factors", nargs="*", type=float, default=None, help="of the learning rate, to choose from")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each in a process")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--rounds", type=int, default=None, help="of timing; 0: costs as they were in the trainings")
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file, after each training")
    parser.add_argument("--resume", action="store_true", help="keep the trainings that the file already has")
    args = parser.parse_args(arguments)
    started = time.perf_counter()
    if args.resume and args.json is None:
        parser.error("--resume needs --json, the file to go on with")
    size = "short" if args.short else "long"
    if missing := [name for name in args.task if size not in SIZES[name]]:
        parser.error(f"--task {missing[0]} has no short form")
    ways = list(dict.fromkeys([DENSE, *(args.ways or (SHORT if args.short else WAYS))]))
    shares = args.shares or SHARES[size]
    settings = {
        "tasks": {name: {"size": size, **make_task(name, size).settings} for name in args.task},
        "arms": {way: WAYS[way].to_dict() for way in ways},
    }
    try:
        results = Results(args.json, settings, resume=args.resume)
    except ResultsError as error:
        parser.error(str(error))
    seeds, factors = args.seeds or SEEDS[size], args.factors or FACTORS[size]
    frontiers = [Frontier(name, size, ways, seeds, sorted({*shares, 1.0}), factors, results) for name in args.task]
    run_all([job for each in frontiers for job in each.tuning()], results, args.jobs, args.threads, "tuning")
    by_seed = [job for each in frontiers for job in each.trainings()]
    run_all(sorted(by_seed, key=lambda job: job.seed), results, args.jobs, args.threads, "training")
    torch.set_num_threads(args.threads)
    if rounds := ROUNDS[size] if args.rounds is None else args.rounds:
        time_all(frontiers, size, results, rounds)
    summary = {each.name: each.rows() for each in frontiers}
    metrics = {
        each.name: {"metric": each.task.metric, "higher_is_better": each.task.higher_is_better} for each in frontiers
    }
    took = {} if args.resume else {"seconds": time.perf_counter() - started}
    today = date.today().isoformat()
    results.write(size=size, factors=list(factors), date=today, metrics=metrics, summary=summary, **took)
    console = Console(width=150)
    for each in frontiers:
        console.print(table(summary[each.name], f"{each.name}: {each.task.metric}"))


if __name__ == "__main__":
    ecograph.keep_memory()  # as its processes do
    main()
