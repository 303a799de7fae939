"""All that is no product and is computed of images: norms over positions, pooling, resizing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.calibration.workloads.workload import Call, noise

aten = torch.ops.aten


def on_images(elements: int, dtype: torch.dtype) -> Iterator[Call]:
    """Yields all that is computed of images, for so many elements in all."""

    def t(*shape: int) -> Tensor:
        return noise(*shape, dtype=dtype)

    size = 8 if elements <= 2**16 else 32
    channels = 16 if elements <= 2**10 else 64
    images = max(1, elements // (channels * size * size))

    def image() -> tuple[Tensor, ...]:
        return (t(images, channels, size, size),)

    def batch_norm() -> tuple[Tensor, ...]:
        c = torch.float32
        return (*image(), *(torch.ones(channels, dtype=c) for _ in range(4)))

    yield (
        "batch_norm",
        lambda x, w, b, m, v: aten.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-5),
        batch_norm,
        "forward",
    )

    def batch_normed() -> tuple[Any, ...]:
        x, w, b, m, v = batch_norm()
        return *image(), x, w, m, v, *aten.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-5)[1:]

    yield (
        "batch_norm_backward",
        lambda g, x, w, m, v, mean, rstd: aten.native_batch_norm_backward(
            g, x, w, m, v, mean, rstd, True, 1e-5, [True] * 3
        ),
        batch_normed,
        "backward",
    )

    def group_norm() -> tuple[Tensor, ...]:
        return *image(), *(torch.ones(channels, dtype=dtype) for _ in range(2))

    def run_group_norm(x: Tensor, w: Tensor, b: Tensor) -> Any:
        return aten.native_group_norm(x, w, b, images, channels, size * size, 8, 1e-5)

    yield "group_norm", run_group_norm, group_norm, "forward"

    def group_normed() -> tuple[Any, ...]:
        x, w, b = group_norm()
        return *image(), x, *run_group_norm(x, w, b)[1:], w

    yield (
        "group_norm_backward",
        lambda g, x, mean, rstd, w: aten.native_group_norm_backward(
            g, x, mean, rstd, w, images, channels, size * size, 8, [True] * 3
        ),
        group_normed,
        "backward",
    )
    yield "max_pool", lambda x: aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1]), image, "forward"

    def pooled() -> tuple[Any, ...]:
        (x,) = image()
        out, indices = aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
        return torch.randn_like(out), x, indices

    yield (
        "max_pool_backward",
        lambda g, x, i: aten.max_pool2d_with_indices_backward(g, x, [3, 3], [2, 2], [1, 1], [1, 1], False, i),
        pooled,
        "backward",
    )
    yield "avg_pool", lambda x: aten.avg_pool2d(x, [2, 2], [2, 2]), image, "forward"
    yield "mean of positions", lambda x: aten.mean(x, [-1, -2], True), image, "forward"
    yield (
        "upsample_nearest",
        lambda x: aten.upsample_nearest2d(x, [2 * size, 2 * size]),
        lambda: (t(max(1, images // 4), channels, size, size),),
        "forward",
    )

    def channel() -> tuple[Tensor, ...]:
        return *image(), t(images, channels, 1, 1)

    yield "mul channel", aten.mul, channel, "forward"
    yield (
        "to channels_last",
        lambda x: aten.clone(x, memory_format=torch.channels_last),
        image,
        "forward",
    )
    yield (
        "upsample_nearest_backward",
        lambda g: aten.upsample_nearest2d_backward(g, [size, size], [images, channels, size // 2, size // 2]),
        image,
        "backward",
    )
