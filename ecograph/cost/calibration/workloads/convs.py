"""Convolutions, over the widths and resolutions at which networks have them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.calibration.workloads.workload import Workload, noise

aten = torch.ops.aten


@dataclass(frozen=True)
class Conv:
    """A convolution to time."""

    images: int
    inputs: int
    outputs: int
    kernel: int
    size: int
    stride: int = 1
    groups: int = 1

    @property
    def flops(self) -> int:
        """Of its forward."""
        positions = math.ceil(self.size / self.stride) ** 2
        return 2 * self.images * positions * self.outputs * self.inputs // self.groups * self.kernel**2

    def __str__(self) -> str:
        shape = f"{self.images}x{self.inputs}x{self.size}x{self.size}"
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"conv {self.kernel}x{self.kernel} {shape} to {self.outputs}{groups}"


#: width of a convolution -> the resolutions at which it is timed. Width goes up as resolution goes down.
_PYRAMID = {16: (112,), 32: (32,), 64: (56, 16), 128: (28,), 256: (14, 8), 512: (7, 4, 3)}
#: Images in a batch, at most. Where a convolution of so many takes too long, it is timed with fewer.
_IMAGES = (1, 16)
#: Largest convolution that is timed, in FLOPs: rates of larger ones are no different.
_MOST_CONV = 7e8


def convs(format: torch.memory_format = torch.contiguous_format) -> list[Conv]:
    """Returns convolutions over the widths and resolutions at which networks have them.

    In channels_last there are fewer: rates differ less there between sizes, since nothing is copied into blocks.
    """
    few = format == torch.channels_last
    found: list[Conv] = []
    for images in _IMAGES:
        for width, sizes in _PYRAMID.items():
            for size in sizes[:1] if few else sizes:
                found += [Conv(images, width, width, kernel, size) for kernel in (1, 3)]
                if size % 2 == 0 and not (few and width < 64):
                    found.append(Conv(images, width, 2 * width, 3, size, stride=2))
            found.append(Conv(images, width, 4 * width, 1, sizes[0]))
            found.append(Conv(images, width, 2 * width, 1, sizes[0], stride=2))
            if not few:
                found.append(Conv(images, 4 * width, width, 1, sizes[0]))
        found += [Conv(images, 3, 64, 7, 224, 2), Conv(images, 3, 32, 3, 224, 2), Conv(images, 3, 64, 3, 32)]
        found += [Conv(images, 3, 96, 4, 224, 4), Conv(images, 3, 192, 16, 224, 16)]
        # On one position: squeeze and excite.
        found += [Conv(images, *widths, 1, 1) for widths in ((64, 16), (16, 64), (512, 128), (128, 512))]
        for width, size in ((32, 112), (144, 28), (384, 14), (768, 7)):
            found += [Conv(images, width, width, kernel, size, groups=width) for kernel in (3, 5, 7)]
            if size % 2 == 0 and width > 32:
                found += [Conv(images, width, width, kernel, size, 2, groups=width) for kernel in (3, 5)]
                groups = width // 16
                # Also with few output channels, of which a group is no block: those take longer than blocks do.
                found += [Conv(images, width, groups * outputs, 3, size, groups=groups) for outputs in (16, 8, 3)]
        # Of few channels: where there are no kernels for them, one group after the other is computed.
        found += [Conv(images, 24, 24, kernel, 14, stride, groups=24) for kernel in (3, 5) for stride in (1, 2)]
    return list(dict.fromkeys(map(_bounded, found)))


def _bounded(conv: Conv) -> Conv:
    """Returns a convolution of fewer images where one of all takes too long."""
    while conv.flops > _MOST_CONV and conv.images > 1:
        conv = replace(conv, images=conv.images // 2)
    return conv


def all_convs(dtype: torch.dtype, format: torch.memory_format) -> Iterator[Workload]:
    """Yields the products of all convolutions in a memory format."""
    for conv in convs(format):
        yield from conv_workloads(conv, dtype, format)


def conv_workloads(conv: Conv, dtype: torch.dtype, format: torch.memory_format) -> Iterator[Workload]:
    """Yields the three products of a convolution."""
    padding = [0 if conv.kernel == conv.stride else (conv.kernel - 1) // 2] * 2
    stride = [conv.stride] * 2

    def make() -> tuple[Tensor, Tensor, Tensor]:
        x = noise(conv.images, conv.inputs, conv.size, conv.size, dtype=dtype)
        w = noise(conv.outputs, conv.inputs // conv.groups, conv.kernel, conv.kernel, dtype=dtype)
        x, w = (each.contiguous(memory_format=format) for each in (x, w))
        out = (conv.size + 2 * padding[0] - conv.kernel) // conv.stride + 1
        g = noise(conv.images, conv.outputs, out, out, dtype=dtype).contiguous(memory_format=format)
        return x, w, g

    def forward(x: Tensor, w: Tensor, g: Tensor) -> Any:
        return aten.convolution(x, w, None, stride, padding, [1, 1], False, [0, 0], conv.groups)

    def backward(x: Tensor, w: Tensor, g: Tensor, mask: list[bool]) -> Any:
        return aten.convolution_backward(g, x, w, None, stride, padding, [1, 1], False, [0, 0], conv.groups, mask)

    yield Workload(str(conv), forward, make, "forward")
    if conv.inputs > 3:  # images need no gradient
        yield Workload(
            str(conv), lambda x, w, g: backward(x, w, g, [True, False, False]), make, "backward", "grad_input", warm=2
        )
    yield Workload(
        str(conv), lambda x, w, g: backward(x, w, g, [False, True, False]), make, "backward", "grad_weight", warm=2
    )
