"""Recognizing drawn characters: 72 classes, 32x32, turned, sheared, noisy; as many images as are asked for.

The noise makes the difficulty. As the task is by default, a dense Wide ResNet comes to 94.9% (one training, in bf16:
benchmarks/results/glyphs_difficulty_2_cores.json), after as many epochs with noise of 0.08 to 92.8%, and with 0.22 to
43.9% even after 20.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from models import wide_resnet
from torch import Tensor, nn

from tasks.drawing import CHARACTERS, draw
from tasks.task import Task

SIZE = 32
TEST = 5000
#: Standard deviation of the noise, next to a contrast of 0.3 to 1.
NOISE = 0.07


@cache
def images(count: int, seed: int, classes: int, noise: float) -> tuple[Tensor, Tensor]:
    """Returns images ``(count, 1, 32, 32)``, as bytes, and labels; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    parts = []
    for chosen in labels.split(2000):
        drawn = draw(chosen, SIZE, generator)
        contrast = 0.3 + 0.7 * torch.rand(len(chosen), 1, 1, 1, generator=generator)
        added = noise * torch.randn(drawn.shape, generator=generator)
        parts.append(((0.3 + 0.5 * contrast * drawn + added).clamp(0, 1) * 255).to(torch.uint8))
    return torch.cat(parts), labels


def as_input(image: Tensor) -> Tensor:
    """Returns bytes as what a network takes."""
    return (image.float() / 255 - 0.4) / 0.3


def task(
    scale: float = 1.0,
    count: int = 50_000,
    epochs: int = 8,
    widths: tuple[int, ...] = (64, 128, 256),
    blocks: int = 1,
    batch: int = 128,
    test: int = TEST,
    classes: int = len(CHARACTERS),
    noise: float = NOISE,
    lr: float = 0.05,
) -> Task:
    """Returns the task.

    Args:
        scale: of the steps.
        count: images to train on.
        epochs: over them.
        widths: of the Wide ResNet's groups, behind a stem that halves the resolution.
        blocks: in each group.
        batch: images.
        test: images to test on.
        classes: the first so many characters.
        noise: its standard deviation.
        lr: peak learning rate.
    """
    steps = max(1, round(scale * (count // batch)))

    def build() -> nn.Module:
        model = wide_resnet(widths, blocks, channels_in=4, classes=classes)
        return nn.Sequential(nn.PixelUnshuffle(2), model)  # four pixels are four channels

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = images(count, 0, classes, noise)
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(count, generator=generator)
            for chosen in order[: count // batch * batch].split(batch):
                yield as_input(inputs[chosen]), labels[chosen]

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        device = next(model.parameters()).device
        inputs, labels = images(test, 1, classes, noise)
        hits = [(model(as_input(x).to(device)).argmax(1).cpu() == y).sum() for x, y in _pairs(inputs, labels)]
        return 100 * float(sum(hits)) / test

    return Task(
        name="glyphs", metric="test accuracy, %", decimals=2, higher_is_better=True,
        epochs=epochs, steps_per_epoch=steps,
        settings={
            "images": count, "classes": classes, "widths": list(widths), "blocks": blocks, "batch": batch,
            "epochs": epochs, "steps_per_epoch": steps, "noise": noise, "test": test,
            "lr": lr,
        },
        build=build, batches=batches, loss=F.cross_entropy, optimizer=optimizer, clip=None, evaluate=evaluate,
    )  # fmt: skip


def _pairs(inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(inputs.split(500), labels.split(500), strict=True)
