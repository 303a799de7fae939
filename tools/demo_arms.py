"""The three arms of the demo: the job that each is, for how long, at which cost; and one run of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ecograph.loop import Callback
from ecograph.passes import SparseBackward
from ecograph.tools.jobs.job import DataSet, Job, Model, Named, Top
from ecograph.tools.jobs.plan import Planned, plan
from ecograph.tools.training import Course

#: As in ssProp's published runs: a dense epoch, a sparse one, and so on.
SPARSE_BACKWARD = SparseBackward(drop=0.8, schedule="alternate")


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: ``"dense"``, ``"sparse"`` or ``"control"``.
        title: for the table.
        job: the training; its seed is set for each run.
        flops: of one whole training, counted from shapes.
    """

    name: str
    title: str
    job: Job
    flops: int

    @property
    def epochs(self) -> int:
        """How many it has; its learning-rate schedule spans them."""
        epochs: int = self.job.loop["epochs"]
        return epochs


@dataclass(frozen=True)
class Plan:
    """The arms, and how the control's epochs came about.

    Attributes:
        model: name in ``demo_model.MODELS``.
        arms: dense, sparse, control.
        steps_per_epoch: optimizer steps.
        control_exact: epochs of dense training that cost exactly what the sparse arm costs.
        images: for training and for testing.
    """

    model: str
    arms: tuple[Arm, Arm, Arm]
    steps_per_epoch: int
    control_exact: float
    images: tuple[int, int]


@dataclass(frozen=True)
class Run:
    """The outcome of one training.

    Attributes:
        arm: name of the arm.
        seed: of the initial weights, the order of batches and the shifts.
        position: 0 where this arm was the first of its seed to be trained.
        accuracy: share of test images that were recognised.
        cpu_seconds: CPU time of the process during training, summed over threads; evaluation is not in it.
        wall_seconds: of the training.
        train_loss: mean of the last epoch.
    """

    arm: str
    seed: int
    position: int
    accuracy: float
    cpu_seconds: float
    wall_seconds: float
    train_loss: float | None


def job(model: str, *, epochs: int, passes: tuple[Any, ...] = (), seed: int = 0) -> Job:
    """Returns the job of an arm: arms differ in their passes and epochs, and in nothing else."""
    return Job(
        top=Top(seed=seed, device="cpu"),
        model=Model(f"demo:{model}", channels_last=True),
        data=DataSet("digits:shifted", batch_size=32, drop_last=True),
        optimizer=Named("sgd", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
        schedule=Named("onecycle", {"pct_start": 0.1, "cycle_momentum": False}),
        passes=passes,
        loop={"epochs": epochs, "metric": "accuracy"},
    )


def sparse_job(model: str, *, epochs: int) -> Job:
    """Returns the job of the sparse arm."""
    return job(model, epochs=epochs, passes=(SPARSE_BACKWARD,))


def make_plan(model: str, *, epochs: int) -> Plan:
    """Plans the arms; FLOPs are what ``explain`` counts, on average over the schedule of these epochs.

    Args:
        model: name of the model.
        epochs: of the dense and the sparse arm.
    """
    trial = plan(sparse_job(model, epochs=epochs))
    trial.announce()
    report = trial.explained()
    assert report is not None
    steps = len(trial.ready.train_loader)
    dense, sparse = report.before.total, report.after.total
    exact = epochs * sparse / dense
    fewer = max(1, round(exact))
    return Plan(
        model=model,
        arms=(
            Arm("dense", "dense", job(model, epochs=epochs), epochs * steps * dense),
            Arm("sparse", "sparse backward", trial.job, epochs * steps * sparse),
            Arm("control", "control: dense, fewer epochs", job(model, epochs=fewer), fewer * steps * dense),
        ),
        steps_per_epoch=steps,
        control_exact=exact,
        images=(len(trial.ready.train_loader.dataset), len(trial.ready.val_loader.dataset)),
    )


class Ticks(Callback):
    """Calls a function after every optimizer step."""

    def __init__(self, tick: Callable[[], None]) -> None:
        """Takes the function."""
        self._tick = tick

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        """Calls it."""
        self._tick()


def begin(arm: Arm, *, seed: int, tick: Callable[[], None] | None = None) -> Planned:
    """Makes everything for one training of an arm.

    Args:
        arm: what to train.
        seed: arms with the same one begin with the same weights, and see the same images, moved alike, in the same
            order.
        tick: called after every optimizer step, for a progress bar.
    """
    callbacks = [] if tick is None else [Ticks(tick)]
    loop = {**arm.job.loop, "progress": False, "callbacks": callbacks}
    return plan(replace(arm.job, top=replace(arm.job.top, seed=seed), loop=loop))


def train(arm: Arm, *, seed: int, position: int = 0, tick: Callable[[], None] | None = None) -> Run:
    """Trains one arm with one seed, and tests it when the time of the training has been taken."""
    planned = begin(arm, seed=seed, tick=tick)
    training = replace(planned.ready, val_loader=None)
    wall, cpu = time.perf_counter(), time.process_time()
    history = planned.loop.run(*training)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Run(arm.name, seed, position, test(planned), cpu, wall, history[-1].train_loss)


def test(planned: Planned) -> float:
    """Returns the share of test images that the model recognises, by the loop's own function."""
    ready, evaluate = planned.ready, Course.of(planned.loop).evaluate
    assert evaluate is not None
    _, accuracy = evaluate(ready.model, ready.loss_fn, ready.val_loader, torch.device(planned.job.top.device))
    share: float = accuracy
    return share
