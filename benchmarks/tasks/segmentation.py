"""Finding every pixel of the digits in a scene of characters, for GradSamp's claim beyond classification."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.drawing import CHARACTERS, draw
from tasks.task import Task
from tasks.unet import UNet

SIZE = 48
#: Characters in a scene; those that are no digit are background.
GLYPHS = 5
DIGITS = "23456789"


@cache
def scenes(count: int, seed: int, kinds: int) -> tuple[Tensor, Tensor]:
    """Returns scenes ``(count, 1, 48, 48)`` and maps of classes ``(count, 48, 48)``: 0, or 1 for "2", 2 for "3", ..."""
    generator = torch.Generator().manual_seed(seed)
    images, maps = [], []
    for start in range(0, count, 500):
        number = min(500, count - start)
        image = torch.zeros(number, 1, SIZE, SIZE)
        classes = torch.zeros(number, SIZE, SIZE, dtype=torch.long)
        for _ in range(GLYPHS):
            digit = torch.rand(number, generator=generator) < 0.6
            labels = torch.where(
                digit,
                torch.randint(kinds, (number,), generator=generator),
                torch.randint(kinds, len(CHARACTERS), (number,), generator=generator),
            )
            drawn = draw(labels, SIZE, generator, scale=(0.3, 0.5), shift=0.65)
            shade = 0.5 + 0.5 * torch.rand(number, 1, 1, 1, generator=generator)
            image = image * (1 - drawn) + shade * drawn
            named = torch.where(digit, labels + 1, torch.zeros_like(labels))[:, None, None]
            classes = torch.where(drawn[:, 0] > 0.4, named.expand_as(classes), classes)
        images.append(image + 0.15 * torch.randn(image.shape, generator=generator))
        maps.append(classes)
    return torch.cat(images), torch.cat(maps)


def task(
    scale: float = 1.0,
    count: int = 8000,
    epochs: int = 20,
    widths: tuple[int, ...] = (32, 64, 128),
    batch: int = 32,
    test: int = 500,
    kinds: int = len(DIGITS),
    lr: float = 2e-3,
) -> Task:
    """Returns the task; see ``tasks.glyphs`` for the options.

    Args:
        scale: of the steps.
        count: scenes to train on.
        epochs: over them.
        widths: of the U-Net's stages.
        batch: scenes.
        test: scenes to test on.
        kinds: digits that have a class of their own.
        lr: peak learning rate.
    """
    steps = max(1, round(scale * (count // batch)))

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, maps = scenes(count, 0, kinds)
        generator = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(count, generator=generator)[: count // batch * batch].split(batch):
                yield images[chosen], maps[chosen]

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        device = next(model.parameters()).device
        images, maps = scenes(test, 1, kinds)
        predicted = torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(100)])
        shares = [
            ((predicted == each) & (maps == each)).sum() / ((predicted == each) | (maps == each)).sum().clamp(min=1)
            for each in range(1, kinds + 1)
        ]
        return 100 * torch.stack(shares).mean().item()

    return Task(
        name="segmentation", metric="mean IoU of the digits, %", decimals=2, higher_is_better=True,
        epochs=epochs, steps_per_epoch=steps,
        settings={
            "scenes": count, "kinds": kinds, "widths": list(widths), "batch": batch, "epochs": epochs,
            "steps_per_epoch": steps, "test": test, "lr": lr,
        },
        build=lambda: UNet(1, kinds + 1, widths), batches=batches, loss=F.cross_entropy, optimizer=optimizer,
        clip=1.0, evaluate=evaluate,
    )  # fmt: skip
