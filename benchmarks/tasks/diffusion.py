"""A small denoising diffusion model (DDPM, arXiv 2006.11239) of drawn characters: ssProp's claim about generation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.drawing import CHARACTERS, draw
from tasks.task import Task
from tasks.unet import UNet

SIZE = 16
#: Steps of the noising.
STEPS = 200


@cache
def images(count: int, seed: int) -> Tensor:
    """Returns characters ``(count, 1, 16, 16)`` from -1 to 1; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CHARACTERS), (count,), generator=generator)
    parts = [draw(chosen, SIZE, generator, turn=10, scale=(0.9, 1.0), shift=0.05) for chosen in labels.split(2000)]
    return 2 * torch.cat(parts) - 1


def noised(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns noised images with the time as a second channel, and the noise, which is to be predicted."""
    time = torch.randint(1, STEPS + 1, (len(clean), 1, 1, 1), generator=generator) / STEPS
    kept = (time * math.pi / 2).cos()  # the cosine schedule of arXiv 2102.09672
    noise = torch.randn(clean.shape, generator=generator)
    return torch.cat([kept * clean + (1 - kept**2).sqrt() * noise, time.expand_as(clean)], 1), noise


def task(
    scale: float = 1.0,
    count: int = 20_000,
    epochs: int = 20,
    widths: tuple[int, ...] = (64, 128, 256),
    batch: int = 64,
    test: int = 2000,
) -> Task:
    """Returns the task; see ``tasks.glyphs`` for the options."""
    steps = max(1, round(scale * (count // batch)))

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        clean = images(count, 0)
        generator = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(count, generator=generator)[: count // batch * batch].split(batch):
                yield noised(clean[chosen], generator)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(7)  # the same times and noise for every model
        losses = []
        for part in images(test, 1).split(250):
            inputs, noise = noised(part, generator)
            losses.append(F.mse_loss(model(inputs.to(device)), noise.to(device)).item() * len(part))
        return 1000 * sum(losses) / test

    return Task(
        name="diffusion", metric="squared error of the noise on unseen images, x 1000", decimals=2,
        higher_is_better=False, epochs=epochs, steps_per_epoch=steps,
        settings={
            "images": count, "widths": list(widths), "batch": batch, "epochs": epochs, "steps_per_epoch": steps,
            "test": test,
        },
        build=lambda: UNet(2, 1, widths), batches=batches, loss=F.mse_loss, optimizer=optimizer, clip=1.0,
        evaluate=evaluate,
    )  # fmt: skip
