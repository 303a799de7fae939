"""One training of one arm with one seed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from steps import DEVICE

from ecograph.passes import GradSamp
from ecograph.passes.extrapolation import Extrapolation
from ecograph.passes.gradsamp import EpochSampler
from tasks import TASKS
from tasks.arms import ARMS, prepare
from tasks.loop import Loop
from tasks.task import Task


@dataclass(frozen=True)
class Job:
    """A training to be done; small enough to be sent to another process.

    Attributes:
        task: key in ``TASKS``.
        scale: of the task's steps.
        arm: key in ``ARMS``.
        seed: of the initial weights, of the batches, and of the pass.
        steps: optimizer steps, over which the learning-rate schedule is stretched.
        flops_share: of the task's whole dense training.
    """

    task: str
    scale: float
    arm: str
    seed: int
    steps: int
    flops_share: float


@cache
def make_task(name: str, scale: float) -> Task:
    """Returns a task; its data is read once in a process."""
    return TASKS[name](scale)


def run(job: Job) -> dict[str, Any]:
    """Trains and evaluates.

    Returns:
        The outcome as JSON types. CPU seconds are those of the whole process during training, without evaluation.
    """
    _warm_up(job.task, job.scale)
    return {**vars(job), **train(make_task(job.task, job.scale), job.arm, seed=job.seed, steps=job.steps)}


def train(task: Task, arm: str, *, seed: int, steps: int) -> dict[str, float]:
    """Trains ``arm`` for ``steps`` steps. Arms with the same seed begin with the same weights and see the same batches.

    Args:
        task: what is trained.
        arm: key in ``ARMS``; only dense training may have another number of steps than the task's.
        seed: of the initial weights, of the batches, and of the pass.
        steps: optimizer steps.
    """
    torch.manual_seed(seed)
    model, scheduler = prepare(task, ARMS[arm], task.build().to(DEVICE).train(), seed)
    optimizer = task.optimizer(model)
    loop = Loop(task, model, optimizer, task.batches(seed), steps, scheduler)
    if (skips := ARMS[arm].skips) is not None:
        loop.sampler = EpochSampler(GradSamp(**skips, seed=seed), epochs=task.epochs)
    if (extrapolates := ARMS[arm].extrapolates) is not None:
        loop.extrapolation = Extrapolation(model, optimizer, **extrapolates, **_seed(extrapolates, seed))
    wall, cpu = time.perf_counter(), time.process_time()
    loop.run()
    if ARMS[arm].recalibrate:
        loop.recalibrate()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    losses = loop.losses
    last = losses[-max(1, steps // 10) :]
    return {
        "value": task.evaluate(loop.model.eval()),
        "train_loss": sum(last) / len(last),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
    }


def _seed(options: dict[str, Any], seed: int) -> dict[str, int]:
    return {"seed": seed} if options.get("direction") == "noise" else {}


@cache
def _warm_up(name: str, scale: float) -> None:
    """Trains for two steps, once in a process: what torch sets up at first use is no arm's cost."""
    train(make_task(name, scale), "dense", seed=0, steps=2)
