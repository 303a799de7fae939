"""``ecograph demo``: does it pay? Three ways of training a small ResNet on real digits, side by side."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ecograph.tools.console import print_json, print_text, stderr, stdout
from ecograph.tools.errors import UserError, one_line, user_errors

if TYPE_CHECKING:
    from rich.progress import Progress

    from ecograph.tools.demo_arms import Plan, Run

#: What stands above the job that is printed.
JOB_HEAD = """\
# The training with sparse backward of `ecograph demo`. It runs as it is: ecograph train job.toml
# For your own, put another spec into [model] and [data], such as "file.py:function" (paths are relative to the folder
# that you are in), and device = "auto". Without [passes.sparse_backward] it is dense training, to compare with.
# ecograph train --example explains every key.

"""


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the dense and the sparse arm.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm, each from other weights.")] = 3,
    model: Annotated[
        str, typer.Option(help="tiny (a quarter of the work), small, deep (twice) or wide (four times).")
    ] = "small",
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of torch. With one, no waiting for others is in the CPU time.")
    ] = 1,
    backend: Annotated[
        str, typer.Option(help="ort: train in PyTorch and in ONNX Runtime, dense and sparse, side by side.")
    ] = "torch",
    json: Annotated[bool, typer.Option("--json", help="Print every figure of every seed as JSON.")] = False,
    job: Annotated[
        bool, typer.Option("--job", help="Print the sparse arm as a job for `ecograph train`; train nothing.")
    ] = False,
) -> None:
    """Train on real handwritten digits, three ways: does sparse backward pay?

    Dense; with sparse backward; and, the honest control, dense for as many fewer epochs as cost the same
    FLOPs. Sparse backward is worth its while only where it does better than that. Takes about two
    minutes.

    ecograph demo --job > job.toml writes the training with sparse backward down, for your own model and
    data to be put in.
    """
    import torch

    from ecograph.tools import demo_arms, demo_model, demo_report

    with user_errors(prefix="--model: "):
        demo_model.build(model)
    if backend not in ("torch", "ort"):
        raise UserError(f"--backend {backend!r}: give torch or ort")
    if job:
        print_text(job_text(model, epochs=epochs))
        return
    torch.set_num_threads(threads)
    if backend == "ort":
        _beside_ort(model, epochs=epochs, seeds=seeds, json=json)
        return
    started = time.perf_counter()
    plan = demo_arms.make_plan(model, epochs=epochs)
    with _progress() as progress:
        runs = run_all(plan, seeds=seeds, progress=progress)
    report = demo_report.report(plan, runs, threads=threads, seconds=time.perf_counter() - started)
    if json:
        print_json(report.to_dict())
    else:
        stdout().print(report)


def _beside_ort(model: str, *, epochs: int, seeds: int, json: bool) -> None:
    """Trains in PyTorch and in ONNX Runtime, and prints what came out."""
    from ecograph.export.requirements import check_installed
    from ecograph.tools import demo_ort

    try:
        check_installed()
    except ImportError as error:
        raise UserError(f"--backend ort: {one_line(error)}") from error
    started, runs = time.perf_counter(), []
    arms = demo_ort.arms(model, epochs=epochs)
    with _progress() as progress:
        task = progress.add_task("", total=seeds * len(arms) * epochs)
        for seed in range(seeds):
            for position, arm in enumerate(arms):
                progress.update(task, description=f"seed {seed + 1} of {seeds}, {arm.title}")
                tick = partial(progress.advance, task, 1 / demo_ort.STEPS)
                runs.append(demo_ort.train(arm, seed=seed, position=position, tick=tick))
    report = demo_ort.Report(runs, arms, epochs, seeds, time.perf_counter() - started)
    if json:
        print_json(report.to_dict())
    else:
        stdout().print(report)


def job_text(model: str, *, epochs: int) -> str:
    """Returns the sparse arm in TOML, with a word on what to change."""
    from ecograph.tools import demo_arms
    from ecograph.tools.jobs import toml
    from ecograph.tools.jobs.write import to_table

    job = demo_arms.sparse_job(model, epochs=epochs)
    return JOB_HEAD + toml.dump(to_table(replace(job, top=replace(job.top, output="runs/demo"))))


def run_all(plan: Plan, *, seeds: int, progress: Progress) -> list[Run]:
    """Trains every arm with every seed.

    Arms take turns within a seed, and another arm begins with each seed: a machine that slows down or
    speeds up while this runs does so for all of them.
    """
    from ecograph.tools import demo_arms

    warm_up(plan)
    flops_in_all = seeds * sum(arm.flops for arm in plan.arms)
    task = progress.add_task("", total=flops_in_all)
    runs = []
    for seed in range(seeds):
        first = seed % len(plan.arms)
        for position, arm in enumerate(plan.arms[first:] + plan.arms[:first]):
            progress.update(task, description=f"seed {seed + 1} of {seeds}, {arm.title}")
            step = arm.flops / (arm.epochs * plan.steps_per_epoch)
            tick = partial(progress.advance, task, step)
            runs.append(demo_arms.train(arm, seed=seed, position=position, tick=tick))
    return runs


def warm_up(plan: Plan) -> None:
    """Trains for two epochs and throws the result away: what torch sets up once is no arm's cost."""
    from ecograph.tools import demo_arms

    arm = plan.arms[1]
    demo_arms.train(replace(arm, job=demo_arms.sparse_job(plan.model, epochs=2)), seed=0)


def _progress() -> Progress:
    """Returns a progress bar with the time left, on stderr; it is shown on a terminal only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        refresh_per_second=2,  # it is drawn in this process, whose CPU time is measured
        transient=True,
        disable=not console.is_terminal,
    )
