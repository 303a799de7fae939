"""A small ResNet for 8x8 images: the model that ``ecograph demo`` trains."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

#: name -> (channels of each stage, blocks per stage). Wider layers gain more from a sparse backward.
MODELS: dict[str, tuple[tuple[int, ...], int]] = {
    "tiny": ((32, 64, 128), 1),
    "small": ((64, 128, 256), 1),
    "deep": ((64, 128, 256), 2),
    "wide": ((128, 256, 512), 1),
}


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, as in ResNet-18 (He et al., 2015).

    Input ``(N, inputs, H, W)``, output ``(N, outputs, H / stride, W / stride)``.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Makes the layers; the shortcut is a 1x1 convolution where the shape changes."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images ``(N, 1, 8, 8)`` to scores ``(N, 10)``; each stage after the first halves the resolution."""

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        """Makes the stem, ``blocks`` blocks for each of ``widths``, and the classifier."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        stages: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stages.append(Block(inputs, width, stride=2 if stage > 0 and block == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scores."""
        features: Tensor = self.blocks(self.stem(x))
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores


def build(name: str = "small") -> ResNet:
    """Returns the model called ``name``, with fresh weights.

    Raises:
        ValueError: for a name that is not in ``MODELS``.
    """
    if name not in MODELS:
        raise ValueError(f"there is no demo model {name!r}: give one of {', '.join(MODELS)}")
    return ResNet(*MODELS[name])
