"""The ways of training that are placed next to the dense frontier: methods, their combinations, what is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import torch
from steps import DEVICE
from torch import nn

import ecograph
from ecograph import registry
from ecograph.cost.meter import Window
from ecograph.passes import GradSamp
from ecograph.passes.extrapolation import Extrapolation
from ecograph.passes.gradsamp import EpochSampler
from tasks.loop import Loop
from tasks.sizes import make_task
from tasks.task import Task


@dataclass(frozen=True)
class Way:
    """A way of training.

    Attributes:
        title: for people.
        passes: name -> options, of those that rewrite the model.
        skips: options of GradSamp, or None.
        extrapolates: options of Extrapolate, or None.
        free: channels_last and bf16, which change no method.
        compiled: ``torch.compile``.
        trains_as: the way that it is but for how it is computed; it is as good as that one, and need not be trained.
        dropout: before the last layer.
        recalibrate: after training, estimate the statistics of batch norms anew on the plain model, where it has some;
            sliced steps leave statistics of slices.
    """

    title: str
    passes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skips: Mapping[str, Any] | None = None
    extrapolates: Mapping[str, Any] | None = None
    free: bool = False
    compiled: bool = False
    trains_as: str = ""
    dropout: float = 0.0
    recalibrate: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Returns the way as JSON types."""
        return asdict(self)


DENSE, FREE = "dense", "dense-free"


def _sparse(drop: float, **more: Any) -> dict[str, dict[str, Any]]:
    return {"sparse_backward": {"drop": drop, **more}}


def _slice(rate: float) -> dict[str, dict[str, Any]]:
    return {"sliceout": {"rate": rate}}


WAYS: dict[str, Way] = {
    DENSE: Way("dense"),
    FREE: Way("dense, channels_last and bf16", free=True),
    "dense-compiled": Way("dense, torch.compile", compiled=True, trains_as=DENSE),
    "dense-dropout": Way("dense, dropout 0.2", dropout=0.2),
    "sparse-0.5": Way("sparse backward 0.5", _sparse(0.5)),
    "sparse-0.8": Way("sparse backward 0.8", _sparse(0.8)),
    "sparse-0.8-constant": Way("sparse backward 0.8, constant", _sparse(0.8, schedule="constant")),
    "sparse-0.8-dropout": Way("sparse backward 0.8, dropout 0.2", _sparse(0.8), dropout=0.2),
    "sparse-0.8-free": Way("sparse backward 0.8, channels_last and bf16", _sparse(0.8), free=True),
    "slice-0.25": Way("SliceOut 0.25", _slice(0.25), recalibrate=True),
    "slice-0.5": Way("SliceOut 0.5", _slice(0.5), recalibrate=True),
    "slice-0.25-free": Way("SliceOut 0.25, channels_last and bf16", _slice(0.25), free=True, recalibrate=True),
    "gradsamp-3": Way("GradSamp, every 3rd epoch", skips={"every": 3}),
    "gradsamp-4": Way("GradSamp, every 4th epoch", skips={"every": 4}),
    "gradsamp-4-free": Way("GradSamp, every 4th epoch, channels_last and bf16", skips={"every": 4}, free=True),
    "extrapolate-0.05": Way("Extrapolate 0.05", extrapolates={"radius": 0.05}),
    "sparse-gradsamp": Way("sparse backward 0.8 and GradSamp", _sparse(0.8), skips={"every": 4}),
    "sparse-slice": Way("sparse backward 0.8 and SliceOut 0.25", {**_sparse(0.8), **_slice(0.25)}, recalibrate=True),
    "sparse-gradsamp-free": Way(
        "sparse backward 0.8 and GradSamp, channels_last and bf16", _sparse(0.8), skips={"every": 4}, free=True
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A training to be done; small enough to be sent to another process, and what ``Results`` knows a run by.

    Attributes:
        task: key in ``TASKS``.
        size: "short" or "long".
        way: key in ``WAYS``.
        seed: of weights, batches and passes.
        steps: optimizer steps, over which the learning-rate schedule is stretched.
        factor: of the task's learning rate.
        flops: next to dense training for all steps, counted.
    """

    task: str
    size: str
    way: str
    seed: int
    steps: int
    factor: float
    flops: float

    @property
    def arm(self) -> str:
        """What tells it from others of the same task, seed and steps."""
        return f"{self.way} at {self.factor:g}"


def run(job: Run) -> dict[str, Any]:
    """Trains and evaluates; returns the outcome as JSON types."""
    task = make_task(job.task, job.size)
    warm_up(job.task, job.size, job.way)
    return {**vars(job), "arm": job.arm, **train(task, WAYS[job.way], job.seed, job.steps, job.factor)}


def build(task: Task, way: Way, seed: int) -> nn.Module:
    """Makes the model of a way, from the same weights for the same seed."""
    torch.manual_seed(seed)
    model = task.build().to(DEVICE).train()
    if way.dropout:
        model = _with_dropout(model, way.dropout)
    layout = torch.channels_last if way.free else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    if way.passes:
        passes = [registry.find(name)(**_seeded(name, options, seed)) for name, options in way.passes.items()]
        ecograph.optimize(model, example_inputs=task.example().to(DEVICE), passes=passes)
    return model


def share_of_flops(task: Task, way: Way) -> float:
    """Returns the FLOPs of a way next to dense training, on average over its schedule, counted from shapes."""
    share = 1.0
    if way.passes:
        with torch.random.fork_rng():
            model = build(task, way, 0)
        ecograph.Scheduler(model, epochs=task.epochs, steps_per_epoch=task.steps_per_epoch)
        report = ecograph.explain(model)
        share = report.after.total / report.before.total
    if way.skips is not None:
        sampler = EpochSampler(GradSamp(**way.skips), epochs=task.epochs)
        share *= sum(map(sampler.trains, range(task.epochs))) / task.epochs
    return share


def train(task: Task, way: Way, seed: int, steps: int, factor: float = 1.0, *, evaluate: bool = True) -> dict[str, Any]:
    """Trains for ``steps`` steps. Ways with the same seed begin with the same weights and see the same batches.

    Args:
        task: what is trained.
        way: how.
        seed: of weights, batches and passes.
        steps: optimizer steps.
        factor: of the task's learning rate.
        evaluate: whether to.

    Returns:
        ``value`` of the task's metric; CPU seconds and joules, with their source, of the training without evaluation;
        and how many of these CPU seconds belong to epochs or to the whole, not to steps.
    """
    model = build(task, way, seed)
    epochs = max(1, -(-steps // task.steps_per_epoch))
    optimizer = task.optimizer(model)
    for group in optimizer.param_groups:
        group["lr"] *= factor
    loop = Loop(task, model, optimizer, task.batches(seed), steps, free=way.free)
    if way.passes:
        loop.scheduler = ecograph.Scheduler(model, epochs=epochs, steps_per_epoch=task.steps_per_epoch)
    if way.skips is not None:
        loop.sampler = EpochSampler(GradSamp(**way.skips, seed=seed), epochs=epochs)
    if way.extrapolates is not None:
        loop.extrapolation = Extrapolation(model, optimizer, **way.extrapolates)
    if way.compiled:
        loop.forward = torch.compile(model)
    window = Window()
    loop.run()
    if way.recalibrate and any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in model.modules()):
        loop.recalibrate()
    used = window.finish()
    found = {
        "cpu_seconds": used.cpu_seconds,
        "cpu_seconds_aside": loop.aside,
        "seconds": used.seconds,
        "joules": used.joules,
        "energy_source": used.source,
    }
    if not evaluate:
        return found
    value = task.evaluate(loop.model.eval())
    return {"value": value if value == value else None, **found}


def _seeded(name: str, options: Mapping[str, Any], seed: int) -> dict[str, Any]:
    takes = registry.find(name).__dataclass_fields__
    return {**options, **({"seed": seed} if "seed" in takes else {})}


def _with_dropout(model: nn.Module, share: float) -> nn.Module:
    """Puts dropout before the last linear layer or convolution."""
    names = [name for name, each in model.named_modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    head = model.get_submodule(names[-1])
    model.set_submodule(names[-1], nn.Sequential(nn.Dropout(share), head))
    return model


@cache
def warm_up(name: str, size: str, way: str) -> None:
    """Trains for two steps, once in a process: what torch sets up at first use, a compiler too, is no run's cost."""
    train(make_task(name, size), replace(WAYS[way], skips=None), 0, 2)
