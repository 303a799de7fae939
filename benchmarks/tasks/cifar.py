"""CIFAR-10 and CIFAR-100, for those who have the files: in the folder that the variable CIFAR_FOLDER names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from models import resnet
from torch import Tensor, nn

from ecograph.tools.data import find
from tasks.task import Task

BATCH, EPOCHS = 128, 30


@cache
def images(classes: int, part: str) -> tuple[Tensor, Tensor]:
    """Returns all images ``(N, 3, 32, 32)`` and labels of ``"train"`` or ``"val"``."""
    folder = os.environ.get("CIFAR_FOLDER")
    if not folder:
        raise SystemExit("set CIFAR_FOLDER to the folder that holds cifar-10-batches-py or cifar-100-python")
    data = getattr(find(f"torchvision:CIFAR{classes}:{folder}"), part)
    pairs = [data[at] for at in range(len(data))]
    return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])


def task(scale: float = 1.0, classes: int = 10) -> Task:
    """Returns the task: a ResNet-18 with a stem for small images, random crops and flips.

    Args:
        scale: of the steps.
        classes: 10 or 100.
    """
    count = 50_000
    steps = max(1, round(scale * (count // BATCH)))

    def build() -> nn.Module:
        model = resnet((2, 2, 2, 2), bottleneck=False, cifar_stem=True)
        head = next(name for name, each in model.named_modules() if isinstance(each, nn.Linear))
        old = model.get_submodule(head)
        assert isinstance(old, nn.Linear)
        model.set_submodule(head, nn.Linear(old.in_features, classes))
        return model

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = images(classes, "train")
        generator = torch.Generator().manual_seed(seed)
        while True:
            for chosen in torch.randperm(count, generator=generator)[: count // BATCH * BATCH].split(BATCH):
                x = F.pad(inputs[chosen], (4, 4, 4, 4))
                top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
                x = x[..., top : top + 32, left : left + 32]
                flip = torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
                yield torch.where(flip, x.flip(-1), x), labels[chosen]

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        device = next(model.parameters()).device
        inputs, labels = images(classes, "val")
        predicted = torch.cat([model(part.to(device)).argmax(1).cpu() for part in inputs.split(500)])
        return 100 * (predicted == labels).float().mean().item()

    return Task(
        name=f"cifar{classes}", metric="test accuracy, %", decimals=2, higher_is_better=True, epochs=EPOCHS,
        steps_per_epoch=steps,
        settings={"batch": BATCH, "epochs": EPOCHS, "steps_per_epoch": steps, "classes": classes},
        build=build, batches=batches, loss=F.cross_entropy, optimizer=optimizer, clip=None, evaluate=evaluate,
    )  # fmt: skip
