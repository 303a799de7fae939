"""What ``ort_training.py`` trains: six small networks of six kinds, with batches that they can learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from models import LanguageModel, TransformerBlock, resnet
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        hidden = inputs * expand
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class TinyViT(nn.Module):
    """Images ``(N, 3, 32, 32)`` as 64 patches, a class token, pre-norm blocks."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(x.shape[0], -1, -1), patches), 1) + self.places
        scores: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return scores


def lenet() -> nn.Module:
    """LeNet-5 (LeCun et al., 1998), with average pooling and tanh as there, and wider."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(800, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    """Three layers, GELU."""
    return nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10))


def mobile_blocks() -> nn.Module:
    """A stem and four blocks of MobileNetV2."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
        InvertedResidual(24, 24, 1), InvertedResidual(24, 48, 2), InvertedResidual(48, 48, 1),
        InvertedResidual(48, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A model to train, with batches.

    Attributes:
        build: makes the model.
        batch: makes a batch.
        loss: name of the loss in the export.
        optimizer: ``"adamw"`` or ``"sgd"``: what such networks are usually trained with.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    loss: str = "cross_entropy"
    optimizer: str = "adamw"


def images(batch: int = 16) -> Batch:
    """Random images whose label shows: a patch is brighter."""
    labels = torch.randint(10, (batch,))
    x = torch.randn(batch, 3, 32, 32)
    for i, label in enumerate(labels.tolist()):
        x[i, :, 3 * label : 3 * label + 3] += 1
    return x, labels


def vectors() -> Batch:
    """Random vectors; the label is the largest of the first ten sums."""
    x = torch.randn(64, 256)
    return x, x.view(64, 16, 16).sum(2)[:, :10].argmax(1)


def text() -> Batch:
    """Sequences that count up, modulo 64."""
    start, step = torch.randint(64, (8, 1)), torch.randint(1, 4, (8, 1))
    tokens = (start + step * torch.arange(33)) % 64
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


TASKS: dict[str, Task] = {
    "mlp": Task(mlp, vectors),
    "lenet": Task(lenet, images),
    "resnet18": Task(lambda: resnet((2, 2, 2, 2), False, True), lambda: images(8), optimizer="sgd"),
    "mobilenetv2": Task(mobile_blocks, images, optimizer="sgd"),
    "vit-tiny": Task(TinyViT, images),
    "gpt": Task(lambda: LanguageModel(128, 4, 2, 32, vocabulary=64), text, loss="token_cross_entropy"),
}


def loss_of(task: Task, output: Tensor, targets: Tensor) -> Tensor:
    """Returns PyTorch's loss."""
    if task.loss == "token_cross_entropy":
        return F.cross_entropy(output.flatten(0, -2), targets.flatten())
    return F.cross_entropy(output, targets)


def make_optimizer(task: Task, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Returns the task's optimizer."""
    kind = torch.optim.AdamW if task.optimizer == "adamw" else torch.optim.SGD
    return kind(model.parameters(), lr=lr)
