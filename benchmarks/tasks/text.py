"""A byte-level GPT on the source text of Python's standard library: more data than steps, so compute is the limit."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from models import LanguageModel
from torch import Tensor, nn

from ecograph.tools.data.text import library, windows
from ecograph.tools.training.losses import token_cross_entropy as loss
from tasks.task import Task

BATCH = 8
CONTEXT = 128
EPOCHS = 10
STEPS_PER_EPOCH = 60
#: Of the validation text, this many windows are read, spread evenly: 65,536 bytes to predict.
WINDOWS = 512


def task(scale: float = 1.0, width: int = 192, heads: int = 6, depth: int = 4) -> Task:
    """Returns the task.

    Args:
        scale: of the steps.
        width: of the residual stream.
        heads: of each attention.
        depth: blocks.
    """
    train, validation = library()
    steps = max(1, round(scale * STEPS_PER_EPOCH))

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield windows(train, torch.randint(len(train) - CONTEXT, (BATCH,), generator=generator), CONTEXT)

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
            inputs, targets = windows(validation, part, CONTEXT)
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
