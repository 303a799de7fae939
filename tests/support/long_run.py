"""A training run that draws on every source of randomness there is, to be killed and gone on with.

In a module of its own, since processes import it by name.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

import ecograph
from ecograph.loop import Callback
from ecograph.loop.history import EpochRecord

SAMPLES = 48
BATCH = 4
EPOCHS = 6


@dataclass(frozen=True)
class Run:
    """What is trained.

    Attributes:
        model_passes: what ``optimize`` rewrites the model with.
        optimizer: by name.
        loader: "shuffled", "generator" (of its own), "replacement" or "workers".
        options: of TrainingLoop.
    """

    model_passes: tuple[Any, ...] = ()
    optimizer: str = "SGD"
    loader: str = "shuffled"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Batches in all, if no epoch is skipped."""
        return EPOCHS * SAMPLES // BATCH


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples that are augmented by torch's, NumPy's and Python's generators."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, 16, generator=generator)
        self.y = torch.randint(0, 4, (SAMPLES,), generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn(16) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.x[index] + noise, self.y[index]


class Counter(Callback):
    """Tells another process how many batches there were, and keeps a number of its own."""

    def __init__(self, count: Any) -> None:
        self.count = count
        self.steps = 0

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        self.steps += 1
        if self.count is not None:
            self.count.value += 1

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        if self.count is not None:
            self.count.value += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def train(run: Run, folder: Path, output: Path, count: Any = None) -> None:
    """Trains, going on from whatever is in ``folder``, and saves everything that came out."""
    torch.set_num_threads(1)
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(0)
    model = nn.Sequential(
        *(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)),
    )
    if run.model_passes:
        ecograph.optimize(model, example_inputs=torch.randn(4, 16), passes=list(run.model_passes))
    fast = {"lr": 0.05, "momentum": 0.9, "nesterov": True} if run.optimizer == "SGD" else {"lr": 1e-2}
    optimizer = getattr(torch.optim, run.optimizer)(model.parameters(), weight_decay=1e-2, **fast)
    lr_scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=2 * run.steps)
    counter = Counter(count)
    loop = ecograph.TrainingLoop(
        EPOCHS,
        metric="accuracy",
        lr_step="step",
        checkpoint=folder,
        checkpoint_every=3,
        callbacks=[counter],
        progress=False,
        **run.options,
    )
    history = loop.run(
        model, optimizer, nn.CrossEntropyLoss(), _loader(run.loader), _loader("shuffled"), lr_scheduler, resume=True
    )
    measured = ("seconds", "joules")  # and so no two runs agree
    records = [{name: value for name, value in each.to_dict().items() if name not in measured} for each in history]
    result = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {name: value for name, value in lr_scheduler.state_dict().items() if name[0] != "_"},
        "history": records,
        "steps": counter.steps,
        "next": torch.rand(1),
    }
    torch.save(result, output)


def _loader(kind: str) -> DataLoader[Any]:
    data = Noisy()
    if kind == "generator":
        return DataLoader(data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
    if kind == "replacement":
        return DataLoader(data, BATCH, sampler=RandomSampler(data, replacement=True))
    if kind == "workers":
        return DataLoader(data, BATCH, shuffle=True, num_workers=2)
    return DataLoader(data, BATCH, shuffle=True)
