"""The three arms of the demo: what each trains, for how long, at which cost; and one run of one of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import ecograph
from ecograph.loop import TrainingLoop
from ecograph.passes import SparseBackward
from ecograph.tools import demo_model
from ecograph.tools.demo_data import Batches, Digits

BATCH = 32
DROP = 0.8
PEAK_LR = 0.05
WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: ``"dense"``, ``"sparse"`` or ``"control"``.
        title: for the table.
        epochs: over which its learning-rate schedule spans.
        flops: of one whole training, counted from shapes.
        sparse: whether the model is optimized.
    """

    name: str
    title: str
    epochs: int
    flops: int
    sparse: bool = False


@dataclass(frozen=True)
class Plan:
    """The arms, and how the control's epochs came about.

    Attributes:
        model: name in ``demo_model.MODELS``.
        arms: dense, sparse, control.
        steps_per_epoch: optimizer steps.
        control_exact: epochs of dense training that cost exactly what the sparse arm costs.
    """

    model: str
    arms: tuple[Arm, Arm, Arm]
    steps_per_epoch: int
    control_exact: float


@dataclass(frozen=True)
class Run:
    """The outcome of one training.

    Attributes:
        arm: name of the arm.
        seed: of the initial weights and of the order of batches.
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


def make_plan(model: str, *, epochs: int, images: int) -> Plan:
    """Plans the arms; FLOPs are what ``explain`` counts, on average over the schedule of these epochs.

    Args:
        model: name of the model.
        epochs: of the dense and the sparse arm.
        images: in the training set.
    """
    steps = images // BATCH
    trial = sparse_model(model)
    ecograph.Scheduler(trial, epochs=epochs, steps_per_epoch=steps)
    report = ecograph.explain(trial)
    dense, sparse = report.before.total, report.after.total
    exact = epochs * sparse / dense
    fewer = max(1, round(exact))
    return Plan(
        model=model,
        arms=(
            Arm("dense", "dense", epochs, epochs * steps * dense),
            Arm("sparse", "sparse backward", epochs, epochs * steps * sparse, sparse=True),
            Arm("control", "control: dense, fewer epochs", fewer, fewer * steps * dense),
        ),
        steps_per_epoch=steps,
        control_exact=exact,
    )


def sparse_model(name: str) -> nn.Module:
    """Returns the demo model, optimized."""
    return ecograph.optimize(
        demo_model.build(name), example_inputs=torch.zeros(BATCH, 1, 8, 8), passes=[sparse_backward()]
    )


def sparse_backward() -> SparseBackward:
    """Returns the pass, scheduled as in ssProp's published runs: a dense epoch, a sparse one, and so on."""
    return SparseBackward(drop=DROP, schedule="alternate")


def training_loop(arm: Arm) -> TrainingLoop:
    """Returns the generated loop of an arm; for the sparse one it holds the Scheduler of the drop rate."""
    passes = [sparse_backward()] if arm.sparse else []
    return TrainingLoop(epochs=arm.epochs, passes=passes, lr_step="step", progress=False)


def learning_rate(step: int, *, total: int) -> float:
    """Returns the share of the peak learning rate at a step: up over a tenth, then down along a cosine.

    It spans ``total`` steps, so an arm with fewer epochs has the whole of it too, and also ends at zero.
    """
    warmup = max(1, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


def train(
    plan: Plan,
    arm: Arm,
    digits: Digits,
    *,
    seed: int,
    position: int = 0,
    tick: Callable[[], None] | None = None,
) -> Run:
    """Trains one arm with one seed and tests it. Arms with the same seed begin with the same weights."""
    torch.manual_seed(seed)
    model = sparse_model(plan.model) if arm.sparse else demo_model.build(plan.model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    scheduler = LambdaLR(optimizer, partial(learning_rate, total=arm.epochs * plan.steps_per_epoch))
    batches = Batches(digits.train_images, digits.train_labels, size=BATCH, seed=seed, tick=tick)
    loop = training_loop(arm)
    wall, cpu = time.perf_counter(), time.process_time()
    history = loop.run(model, optimizer, F.cross_entropy, batches, lr_scheduler=scheduler)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Run(arm.name, seed, position, test(model, digits), cpu, wall, history[-1].train_loss)


@torch.no_grad()
def test(model: nn.Module, digits: Digits) -> float:
    """Returns the share of test images that the model recognises."""
    model.eval()
    predicted = model(digits.test_images).argmax(1)
    return int((predicted == digits.test_labels).sum()) / len(digits.test_labels)
