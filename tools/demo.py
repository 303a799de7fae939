"""``ecograph demo``: does it pay? Three ways of training a small ResNet on real digits, side by side."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ecograph.tools.console import print_json, stderr, stdout
from ecograph.tools.errors import user_errors

if TYPE_CHECKING:
    from rich.progress import Progress

    from ecograph.tools.demo_arms import Plan, Run
    from ecograph.tools.demo_data import Digits


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the dense and the sparse arm.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm, each from other weights.")] = 3,
    model: Annotated[
        str, typer.Option(help="tiny (a quarter of the work), small, deep (twice) or wide (four times).")
    ] = "small",
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of torch. With one, no waiting for others is in the CPU time.")
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print every figure of every seed as JSON.")] = False,
) -> None:
    """Train on real handwritten digits, three ways: does sparse backward pay?

    Dense; with sparse backward; and, the honest control, dense for as many fewer epochs as cost the same
    FLOPs. Sparse backward is worth its while only where it does better than that. Takes about two
    minutes.
    """
    import torch

    from ecograph.tools import demo_arms, demo_data, demo_model, demo_report

    with user_errors(prefix="--model: "):
        demo_model.build(model)
    torch.set_num_threads(threads)
    started = time.perf_counter()
    digits = demo_data.load()
    plan = demo_arms.make_plan(model, epochs=epochs, images=len(digits.train_labels))
    with _progress() as progress:
        runs = run_all(plan, digits, seeds=seeds, progress=progress)
    report = demo_report.report(
        plan,
        runs,
        images=(len(digits.train_labels), len(digits.test_labels)),
        threads=threads,
        seconds=time.perf_counter() - started,
    )
    if json:
        print_json(report.to_dict())
    else:
        stdout().print(report)


def run_all(plan: Plan, digits: Digits, *, seeds: int, progress: Progress) -> list[Run]:
    """Trains every arm with every seed.

    Arms take turns within a seed, and another arm begins with each seed: a machine that slows down or
    speeds up while this runs does so for all of them.
    """
    from ecograph.tools import demo_arms

    warm_up(plan, digits)
    flops_in_all = seeds * sum(arm.flops for arm in plan.arms)
    task = progress.add_task("", total=flops_in_all)
    runs = []
    for seed in range(seeds):
        first = seed % len(plan.arms)
        for position, arm in enumerate(plan.arms[first:] + plan.arms[:first]):
            progress.update(task, description=f"seed {seed + 1} of {seeds}, {arm.title}")
            step = arm.flops / (arm.epochs * plan.steps_per_epoch)
            tick = partial(progress.advance, task, step)
            runs.append(demo_arms.train(plan, arm, digits, seed=seed, position=position, tick=tick))
    return runs


def warm_up(plan: Plan, digits: Digits) -> None:
    """Trains for two epochs and throws the result away: what torch sets up once is no arm's cost."""
    from ecograph.tools import demo_arms

    demo_arms.train(plan, replace(plan.arms[1], epochs=2), digits, seed=0)


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
