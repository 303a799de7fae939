"""What a pass does to accuracy, next to dense training, and next to dense training that does as much less.

    python benchmarks/accuracy.py --json out.json             # everything, 3 seeds: about 25 minutes on 2 CPU cores
    python benchmarks/accuracy.py --json out.json --resume    # go on after it was stopped
    python benchmarks/accuracy.py --task digits --arms sliceout-0.5
    python benchmarks/accuracy.py --scale 0.1 --seeds 1       # does it run?

Two tasks: scikit-learn's digits with a small Wide ResNet, where data is scarce; and a byte-level GPT on the source text
of Python's standard library, where compute is. Every arm has a control: dense training with as many FLOPs, so fewer
steps, with the learning-rate schedule stretched over them. A pass that is no better than its control saves nothing that
training less would not save. Arms whose FLOPs are the same share a control.

Arms and seeds take turns. Each training runs in a process with one thread, by default two at a time; CPU seconds are of
the process, and two that run side by side can slow each other down, so compare them within one call only.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import outcomes, workers
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tasks import TASKS, report
from tasks.arms import ARMS, DEFAULT, DENSE, Planned, plan
from tasks.results import Results, ResultsError
from tasks.training import Job, make_task, run

Plans = dict[str, list[Planned]]


def jobs(plans: Plans, seeds: int, scale: float) -> list[Job]:
    """Returns every training that is needed, each once.

    All arms of a seed come before the next seed, and another arm begins with each: a machine that becomes slower or
    faster does so for all of them.
    """
    made: dict[Job, None] = {}  # keeps the order, and each once
    for seed in range(seeds):
        for task, planned in plans.items():
            steps = make_task(task, scale).steps
            of_seed = [Job(task, scale, DENSE, seed, steps, 1.0)]
            for item in planned:
                if item.arm != DENSE:
                    of_seed += [
                        Job(task, scale, item.arm, seed, item.steps, item.flops_share),
                        Job(task, scale, DENSE, seed, item.control_steps, item.control_steps / steps),
                    ]
            of_seed = list(dict.fromkeys(of_seed))
            first = seed * len(of_seed) // max(seeds, 1)
            made |= dict.fromkeys(of_seed[first:] + of_seed[:first])
    return list(made)


def run_all(todo: Sequence[Job], results: Results, *, processes: int, threads: int) -> None:
    """Does the trainings that ``results`` does not have yet, with a progress bar."""
    weights = {job: job.flops_share * _SECONDS[job.task] for job in todo}
    open_jobs = [job for job in todo if results.find(job) is None]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    # The bar is drawn rarely: with one process its thread is in the CPU time that is measured.
    with Progress(*columns, transient=True, refresh_per_second=1) as progress:
        done = sum(weights[job] for job in todo if job not in open_jobs)
        bar = progress.add_task("training", total=sum(weights.values()), completed=done)
        with workers(processes, threads) as pool:
            for outcome in outcomes(run, open_jobs, pool):
                results.add(outcome)
                job = Job(**{name: outcome[name] for name in Job.__dataclass_fields__})
                text = f"{len(results.runs)} trainings done, the last: {job.task}, {job.arm}, seed {job.seed}"
                progress.update(bar, advance=weights[job], description=text)


#: About what a dense training takes, so that the time left is estimated well across tasks.
_SECONDS = {"digits": 15.0, "text": 130.0}


def tables(plans: Plans, results: Results, *, seeds: int, scale: float) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of figures of each task."""

    def find(task: str, arm: str, steps: int) -> list[dict[str, Any]]:
        found = [results.find(Job(task, scale, arm, seed, steps, 1.0)) for seed in range(seeds)]
        return [run for run in found if run is not None]

    return {
        task: report.rows(make_task(task, scale), planned, lambda arm, steps, task=task: find(task, arm, steps))
        for task, planned in plans.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", nargs="*", default=list(TASKS), choices=TASKS, help="default: all")
    parser.add_argument("--arms", nargs="*", default=list(DEFAULT), choices=ARMS, metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each arm")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each in a process")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps: 0.1 to try, 2 for a longer training")
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file, after each training")
    parser.add_argument("--resume", action="store_true", help="keep the trainings that the file already has")
    args = parser.parse_args(arguments)
    if args.resume and args.json is None:
        parser.error("--resume needs --json, the file to go on with")
    names = list(dict.fromkeys([DENSE, *args.arms]))
    plans = {task: plan(make_task(task, args.scale), names) for task in args.task}
    settings = {
        "tasks": {task: make_task(task, args.scale).settings for task in plans},
        "arms": {name: ARMS[name].to_dict() for name in names},
    }
    try:
        results = Results(args.json, settings, resume=args.resume)
    except ResultsError as error:
        parser.error(str(error))
    run_all(jobs(plans, args.seeds, args.scale), results, processes=args.jobs, threads=args.threads)
    rows = tables(plans, results, seeds=args.seeds, scale=args.scale)
    results.write(summary=rows)
    console = Console(width=140)
    for task in plans:
        console.print(report.table(make_task(task, args.scale), rows[task]))


if __name__ == "__main__":
    main()
