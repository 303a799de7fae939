"""A training that goes on until a target is reached, at any batch size: how far it came, how long it took."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from steps import DEVICE
from tasks import TASKS
from tasks.task import Task
from torch import Tensor, nn

from ecograph.cost.energy import model_cpu_energy
from ecograph.passes.extrapolation import Extrapolation

#: The target is looked for after each epoch, or, where that is more, when this share more samples were seen.
RESOLUTION = 0.05
#: A run whose loss is so many times the first one, or no number, is given up.
DIVERGED = 3.0


@dataclass(frozen=True)
class Goal:
    """What is to be reached on a task of ``TASKS``, and what is known about how.

    Attributes:
        options: of the task: the size of its model.
        batch: the usual one, in samples.
        epoch: samples in an epoch.
        target: for the task's metric.
        budget: epochs after which a run that has not reached it is given up.
        warmup: epochs over which the learning rate of a large batch rises to its value, where it stays.
        rates: learning rates to try at the usual batch.
        scales: of linear scaling, to try at the large batch.
        weight_decay: of the optimizer.
        clip: the gradient's largest norm, or None.
    """

    options: tuple[tuple[str, Any], ...]
    batch: int
    epoch: int
    target: float
    budget: int
    warmup: float
    rates: tuple[float, ...]
    scales: tuple[float, ...]
    weight_decay: float = 0.0
    clip: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the goal as JSON types."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**values, "options": {k: list(v) if isinstance(v, tuple) else v for k, v in self.options}}


@dataclass(frozen=True)
class Arm:
    """A way of training.

    Attributes:
        title: for people.
        factor: its batch, as a multiple of the usual one.
        tuned: whether its learning rate is chosen among some; otherwise it is that of linear scaling.
        radius: of the extrapolation: of gradients as a multiple of the learning rate, of noise as it is. None: no
            extrapolation.
        direction: of the extrapolation.
        until: epochs after which it ends, or None.
    """

    title: str
    factor: int
    tuned: bool = True
    radius: float | None = None
    direction: str = "past"
    until: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One training; small enough to be sent to another process.

    Attributes:
        task: key in ``TASKS``.
        goal: what it is to reach.
        way: how.
        name: of that.
        rate: the learning rate, after the warm-up.
        seed: of the initial weights, of the data and of the noise.
    """

    task: str
    goal: Goal
    way: Arm
    name: str
    rate: float
    seed: int

    @property
    def arm(self) -> str:
        """What tells it from the others with its seed."""
        return f"{self.name} at {self.rate:g}"

    @property
    def batch(self) -> int:
        """Samples in a batch."""
        return self.goal.batch * self.way.factor

    @property
    def steps(self) -> int:
        """Optimizer steps that it may take."""
        return math.ceil(self.goal.budget * self.goal.epoch / self.batch)


@cache
def make_task(name: str, options: tuple[tuple[str, Any], ...]) -> Task:
    """Returns a task; its data is read once in a process."""
    return TASKS[name](**dict(options))  # type: ignore[arg-type]  # of this task


def rebatched(batches: Iterator[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the samples of ``batches`` in the same order, ``size`` at a time, without end."""
    inputs, targets = next(batches)
    while True:
        more = [(inputs, targets)]
        while sum(len(part) for part, _ in more) < size:
            more.append(next(batches))
        inputs, targets = torch.cat([part for part, _ in more]), torch.cat([part for _, part in more])
        yield inputs[:size], targets[:size]
        inputs, targets = inputs[size:], targets[size:]


def run(attempt: Attempt) -> dict[str, Any]:
    """Trains until the target is reached, the loss explodes, or the budget is spent.

    Returns:
        As JSON types: ``reached``, ``diverged``; and, until then: ``epochs``, ``taken`` (optimizer steps),
        ``cpu_seconds`` of the process without evaluations, ``joules`` with their source, ``best`` value of the metric
        and the ``values`` of all looks; and the last training ``loss``.
    """
    goal, task = attempt.goal, make_task(attempt.task, attempt.goal.options)
    _warm_up(attempt.task, goal.options, attempt.batch)
    torch.manual_seed(attempt.seed)
    model = task.build().to(DEVICE).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=attempt.rate, momentum=0.9, nesterov=True, weight_decay=goal.weight_decay
    )
    extrapolation = _extrapolation(attempt, model, optimizer)
    batches = rebatched(task.batches(attempt.seed), attempt.batch)
    values: list[float] = []
    first: float | None = None
    taken = 0
    look: float = goal.epoch
    loss = cpu = 0.0
    reached = diverged = False
    while taken < attempt.steps and not reached and not diverged:
        started = time.process_time()
        seen = (taken + 1) * attempt.batch
        warm = min(1.0, seen / (goal.warmup * goal.epoch)) if attempt.way.factor > 1 and goal.warmup else 1.0
        optimizer.param_groups[0]["lr"] = attempt.rate * warm
        loss = _step(task, model, optimizer, extrapolation, goal.clip, *next(batches))
        cpu += time.process_time() - started
        taken += 1
        first = loss if first is None else first
        diverged = not loss <= DIVERGED * first
        if seen >= look and not diverged:
            look = max(look + goal.epoch, (1 + RESOLUTION) * look)
            values.append(task.evaluate(model.eval()))
            model.train()
            reached = _better(task, values[-1], goal.target)
    energy = model_cpu_energy(cpu)
    best = (max if task.higher_is_better else min)(values, default=None)
    return {
        "task": attempt.task, "arm": attempt.arm, "seed": attempt.seed, "steps": attempt.steps,
        "name": attempt.name, "rate": attempt.rate, "batch": attempt.batch,
        "reached": reached, "diverged": diverged, "epochs": taken * attempt.batch / goal.epoch, "taken": taken,
        "cpu_seconds": cpu, "joules": energy.joules, "energy_source": energy.source, "best": best, "values": values,
        "loss": loss if math.isfinite(loss) else None,
    }  # fmt: skip


def _better(task: Task, value: float, target: float) -> bool:
    return value >= target if task.higher_is_better else value <= target


def _extrapolation(attempt: Attempt, model: nn.Module, optimizer: torch.optim.Optimizer) -> Extrapolation | None:
    way = attempt.way
    if way.radius is None:
        return None
    radius = way.radius if way.direction == "noise" else way.radius * attempt.rate
    steps = None if way.until is None else math.ceil(way.until * attempt.goal.epoch / attempt.batch)
    return Extrapolation(
        model,
        optimizer,
        radius=radius,
        direction=way.direction,  # type: ignore[arg-type]
        steps=steps,
        seed=attempt.seed,
    )


def _step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extrapolation: Extrapolation | None,
    clip: float | None,
    inputs: Tensor,
    targets: Tensor,
) -> float:
    optimizer.zero_grad(set_to_none=True)
    if extrapolation is None:
        loss = task.loss(model(inputs.to(DEVICE)), targets.to(DEVICE))
        loss.backward()
    else:
        with extrapolation.shifted():
            loss = task.loss(model(inputs.to(DEVICE)), targets.to(DEVICE))
            loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if extrapolation is not None:
        extrapolation.update()
    optimizer.step()
    return float(loss.detach())


@cache
def _warm_up(name: str, options: tuple[tuple[str, Any], ...], batch: int) -> None:
    """Takes two steps, once in a process: what torch sets up at first use is no arm's cost."""
    task = make_task(name, options)
    model = task.build().to(DEVICE).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    for _, pair in zip(range(2), rebatched(task.batches(0), batch), strict=False):
        _step(task, model, optimizer, None, None, *pair)
