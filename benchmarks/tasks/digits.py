"""Handwritten digits with a small Wide ResNet: few images, many passes over them, so regularization can help."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from models import wide_resnet
from torch import Tensor, nn

from ecograph.tools.data.digits import load
from tasks.batches import Batches
from tasks.task import Task

BATCH = 32
EPOCHS = 20


def task(scale: float = 1.0, widths: tuple[int, ...] = (64, 128, 256), blocks: int = 1) -> Task:
    """Returns the task: 539 images of scikit-learn's digits for training, 1,258 for testing.

    Args:
        scale: of the steps.
        widths: of the Wide ResNet's groups; the channels between the convolutions of a block are as many.
        blocks: in each group.
    """
    data = load()
    steps = max(1, round(scale * (len(data.train_labels) // BATCH)))

    def build() -> nn.Module:
        model = wide_resnet(widths, blocks, channels_in=1, classes=10)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = Batches(data.train_images, data.train_labels, size=BATCH, seed=seed)
        while True:
            yield from loader

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        device = next(model.parameters()).device
        predicted = model(data.test_images.to(device)).argmax(1).cpu()
        return 100 * (predicted == data.test_labels).float().mean().item()

    return Task(
        name="digits", metric="test accuracy, %", decimals=2, higher_is_better=True,
        epochs=EPOCHS, steps_per_epoch=steps,
        settings={"widths": list(widths), "blocks": blocks, "batch": BATCH, "epochs": EPOCHS, "steps_per_epoch": steps},
        build=build, batches=batches, loss=F.cross_entropy, optimizer=optimizer, clip=None, evaluate=evaluate,
    )  # fmt: skip
