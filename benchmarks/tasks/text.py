"""A byte-level GPT on the source text of Python's standard library: more data than steps, so compute is the limit."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from models import LanguageModel
from torch import Tensor, nn

from tasks.task import Task

BATCH = 8
CONTEXT = 128
EPOCHS = 10
STEPS_PER_EPOCH = 60
#: Of the validation text, this many windows are read, spread evenly: 65,536 bytes to predict.
WINDOWS = 512
#: One file in so many is for validation.
SPLIT = 12


def task(scale: float = 1.0, width: int = 192, heads: int = 6, depth: int = 4) -> Task:
    """Returns the task.

    Args:
        scale: of the steps.
        width: of the residual stream.
        heads: of each attention.
        depth: blocks.
    """
    train, validation = text()
    steps = max(1, round(scale * STEPS_PER_EPOCH))

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield windows(train, torch.randint(len(train) - CONTEXT, (BATCH,), generator=generator))

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95))

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        device = next(model.parameters()).device
        starts = torch.linspace(0, len(validation) - CONTEXT - 1, WINDOWS).long()
        losses = []
        for part in starts.split(32):
            inputs, targets = windows(validation, part)
            losses.append(loss(model(inputs.to(device)), targets.to(device)).item() * len(part))
        return sum(losses) / WINDOWS

    return Task(
        name="text", metric="validation loss, nats per byte", decimals=3, higher_is_better=False,
        epochs=EPOCHS, steps_per_epoch=steps,
        settings={
            "width": width, "heads": heads, "depth": depth, "context": CONTEXT, "batch": BATCH,
            "epochs": EPOCHS, "steps_per_epoch": steps, "train_bytes": len(train), "validation_bytes": len(validation),
        },
        build=lambda: LanguageModel(width, heads, depth, CONTEXT),
        batches=batches, loss=loss, optimizer=optimizer, clip=1.0, evaluate=evaluate,
    )  # fmt: skip


def loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of ``(N, T, vocabulary)`` scores for ``(N, T)`` bytes."""
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ``(N, T)`` inputs beginning at ``starts``, and the bytes that come after each of theirs."""
    places = starts.unsqueeze(1) + torch.arange(CONTEXT + 1)
    bytes = text[places].long()
    return bytes[:, :-1], bytes[:, 1:]


@cache
def text() -> tuple[Tensor, Tensor]:
    """Returns the training and the validation text, as bytes.

    Whole files go to one side or the other, by a checksum of their path, so that the split is the same on every machine
    and a file that one Python version has and another has not moves no other.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sources(root):
        name = path.relative_to(root).as_posix()
        parts[crc32(name.encode()) % SPLIT == 0].append(path.read_bytes())
    train, validation = (torch.from_numpy(np.frombuffer(b"\n".join(p), np.uint8).copy()) for p in parts)
    return train, validation


def sources(root: Path) -> Iterator[Path]:
    """Yields the library's own modules in a fixed order: no tests, and nothing that was installed beside them."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3", "pydoc_data"}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in left_out and not f.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)
