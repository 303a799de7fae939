"""A small U-Net: images to maps of the same size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _stage(channels_in: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs in (channels_in, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.SiLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """After Ronneberger et al. (2015), with norms over groups: ``(N, channels_in, H, W)`` to as large maps.

    Args:
        channels_in: of the images.
        channels_out: of the maps.
        widths: of the stages, each at half the resolution of the one before.
    """

    def __init__(self, channels_in: int, channels_out: int, widths: tuple[int, ...]) -> None:
        """Makes the stages down, those up, and the head."""
        super().__init__()
        self.down = nn.ModuleList(
            _stage(inputs, width) for inputs, width in zip((channels_in, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            _stage(below + width, width) for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maps."""
        kept = []
        for depth, stage in enumerate(self.down):
            x = stage(F.avg_pool2d(x, 2) if depth else x)
            kept.append(x)
        for stage, skip in zip(self.up, kept[-2::-1], strict=True):
            x = stage(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))
        maps: Tensor = self.head(x)
        return maps
