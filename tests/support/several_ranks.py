"""A training of several ranks that draws on every source of randomness, to be stopped, killed and gone on with.

In a module of its own, since the processes of several tests import it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path
from torch.utils.data import DataLoader, Dataset

import ecograph
from ecograph.loop import Callback, TrainingLoop
from ecograph.passes import Extrapolate, GradSamp, SliceOut, SparseBackward

SPARSE = SparseBackward(0.5, select="random", when="always", skip_first=False, min_channels=4)
SLICES = SliceOut(0.5, min_width=4, align=1, when="always")

#: By name, what is given to :func:`train`.
RUNS: dict[str, dict[str, Any]] = {
    "ddp": dict(kind="ddp"),
    "ddp, all options": dict(kind="ddp", ema=0.9, amp="bf16", clip=1.0, accumulate=2, passes=[GradSamp(every=3)]),
    "ddp, passes": dict(
        kind="ddp", model_passes=[SPARSE, SLICES], passes=[SPARSE, Extrapolate(radius=0.01, direction="local")]
    ),
    "fsdp": dict(kind="fsdp", ema=0.9, clip=1.0),
    "fsdp, passes": dict(
        kind="fsdp",
        accumulate=2,
        model_passes=[SPARSE, SLICES],
        passes=[GradSamp(every=3), Extrapolate(radius=0.01), SPARSE],
    ),
}


class Noisy(Dataset[tuple[Tensor, int]]):
    """Samples that are augmented by torch's and Python's generators."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return x + 0.1 * torch.randn(6) + 0.1 * random.random(), index % 3


class At(Callback):
    """Does something after a step, counted over all epochs; and has a state of its own on each rank."""

    def __init__(self, step: int = 0, act: Callable[[], Any] | None = None) -> None:
        self.steps, self.step, self.act = 0, step, act

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        self.steps += 1
        if self.act is not None and self.steps == self.step:
            self.act()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "rank": dist.get_rank()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["rank"] == dist.get_rank()
        self.steps = state["steps"]


def train(
    kind: str,
    folder: Path,
    *,
    epochs: int = 4,
    resume: bool = False,
    callback: At | None = None,
    model_passes: Any = (),
    **options: Any,
) -> tuple[Any, ...]:
    """Trains in the process group that is there, and returns everything that came out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Dropout(0.2), nn.Linear(9, 3))
    if model_passes:
        ecograph.optimize(model, example_inputs=torch.randn(4, 6), passes=list(model_passes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    callback = callback or At()
    options = {"distributed": kind, "checkpoint_every": 2, "metric": "accuracy", "progress": False, **options}
    loop = TrainingLoop(epochs, checkpoint=folder, callbacks=[callback], **options)
    torch.manual_seed(100 + dist.get_rank())  # so that dropout and augmentation differ
    random.seed(dist.get_rank())
    loaders = DataLoader(Noisy(), 3, shuffle=True), DataLoader(Noisy(), 4)
    history = loop.run(model, optimizer, F.cross_entropy, *loaders, schedule, resume=resume)
    values = [[each.train_loss, each.val_loss, each.lr, each.values, each.note] for each in history]
    states = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]})
    return states, values, callback.steps, torch.rand(1).item(), random.random()


def same(found: object, expected: object) -> None:
    """Asserts that all in the one is what is in the other, bit for bit."""
    pairs = zip(*(tree_flatten_with_path(each)[0] for each in (found, expected)), strict=True)
    for (path, a), (other, b) in pairs:
        assert path == other
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, f"{keystr(path)}: {a} and {b}"


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder, read while all ranks wait."""
    dist.barrier()
    found = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
    dist.barrier()
    return found
