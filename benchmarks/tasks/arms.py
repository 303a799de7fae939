"""The ways of training that are compared, and the dense control that belongs to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn

import ecograph
from ecograph import registry
from ecograph.passes import GradSamp
from ecograph.passes.gradsamp import EpochSampler
from tasks.loop import RECALIBRATION
from tasks.task import Task


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        title: for people.
        pass_name: in ecograph's registry; empty for dense training.
        options: of the pass.
        tail: the share of the training, at its end, that is dense.
        by: what the pass's schedule goes by: ``"epoch"`` or ``"iteration"``.
        recalibrate: after training, estimate the statistics of the batch norms anew, on the plain model; only for
            models that have batch norms.
        skips: options of GradSamp; None for training in which every epoch is trained.
        extrapolates: options of Extrapolate; None for gradients at the weights themselves.
    """

    title: str
    pass_name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    tail: float = 0.0
    by: str = "epoch"
    recalibrate: bool = False
    skips: dict[str, Any] | None = None
    extrapolates: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the arm as JSON types."""
        return asdict(self)


DENSE = "dense"


def slices(rate: float, **options: Any) -> dict[str, Any]:
    """Returns SliceOut's options: every group that can be sliced is, so that its accuracy is seen in full."""
    return {"when": "always", "rate": rate, "schedule": "constant", **options}


ARMS: dict[str, Arm] = {
    DENSE: Arm("dense"),
    "sliceout-0.25": Arm("SliceOut 0.25", "sliceout", slices(0.25)),
    "sliceout-0.25-bn": Arm("SliceOut 0.25, then update_bn", "sliceout", slices(0.25), recalibrate=True),
    "sliceout-0.5": Arm("SliceOut 0.5", "sliceout", slices(0.5)),
    "sliceout-0.5-bn": Arm("SliceOut 0.5, then update_bn", "sliceout", slices(0.5), recalibrate=True),
    "sliceout-0.5-tail": Arm("SliceOut 0.5, last 30% dense", "sliceout", slices(0.5), 0.3),
    "sliceout-0.5-probability": Arm("SliceOut 0.5, probability", "sliceout", slices(0.5, normalization="probability")),
    "sparse-0.8": Arm(
        "sparse backward 0.8, every other step",
        "sparse_backward",
        {"drop": 0.8, "schedule": "alternate"},
        by="iteration",
    ),
    "gradsamp": Arm("GradSamp, every 4th epoch", skips={"every": 4}),
    "gradsamp-element": Arm("GradSamp, by element", skips={"every": 4, "granularity": "element"}),
    "gradsamp-extrapolate": Arm("the last change once more", skips={"every": 4, "mode": "extrapolate"}),
    "gradsamp-none": Arm("skipped without an update", skips={"every": 4, "mode": "none"}),
    "extrapolation-0.01": Arm("Extrapolate 0.01", extrapolates={"radius": 0.01}),
    "extrapolation-0.1": Arm("Extrapolate 0.1", extrapolates={"radius": 0.1}),
    "extrapolation-noise": Arm("Extrapolate 0.01, noise", extrapolates={"radius": 0.01, "direction": "noise"}),
}

#: What is run if nothing else is asked for.
DEFAULT = tuple(name for name in ARMS if name == DENSE or name.startswith("sliceout"))


@dataclass(frozen=True)
class Planned:
    """An arm on a task, and what dense training would do with as many FLOPs.

    Attributes:
        arm: key in ``ARMS``.
        flops_share: FLOPs of its training / FLOPs of dense training, counted from shapes.
        steps: optimizer steps.
        control_steps: of dense training with as many FLOPs, to the nearest step.
    """

    arm: str
    flops_share: float
    steps: int
    control_steps: int


def prepare(task: Task, arm: Arm, model: nn.Module, seed: int) -> tuple[nn.Module, ecograph.Scheduler | None]:
    """Applies an arm's pass, if it has one, and plans its rate over the whole training.

    Args:
        task: what is trained.
        arm: how.
        model: as ``task.build`` made it.
        seed: for passes that draw random numbers.
    """
    if not arm.pass_name:
        return model, None
    kind = registry.find(arm.pass_name)
    options = dict(arm.options)
    if "seed" in {f.name for f in fields(kind)}:
        options["seed"] = seed
    device = next(model.parameters()).device
    model = ecograph.optimize(model, example_inputs=task.example().to(device), passes=[kind(**options)])
    scheduler = ecograph.Scheduler(
        model,
        epochs=task.epochs,
        steps_per_epoch=task.steps_per_epoch,
        by=arm.by,
        tail=round(arm.tail * task.epochs),
    )
    return model, scheduler


def plan(task: Task, names: Sequence[str]) -> list[Planned]:
    """Plans the arms of a task; the FLOPs are what ``ecograph.explain`` counts, on average over the schedule."""
    planned = []
    normed = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in task.build().modules())
    for name in names:
        share = 1.0
        if ARMS[name].recalibrate and not normed:
            continue
        if ARMS[name].pass_name:
            with torch.random.fork_rng():
                model, _ = prepare(task, ARMS[name], task.build(), seed=0)
            report = ecograph.explain(model)
            share = report.after.total / report.before.total
        if (skips := ARMS[name].skips) is not None:
            sampler = EpochSampler(GradSamp(**skips), epochs=task.epochs)
            share *= sum(map(sampler.trains, range(task.epochs))) / task.epochs
            if ARMS[name].recalibrate:
                share += RECALIBRATION * report.before.forward / (report.before.total * task.steps)
        planned.append(Planned(name, share, task.steps, max(1, round(share * task.steps))))
    return planned
