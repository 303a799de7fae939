"""Batches of images with an order and shifts from a generator of their own, so that no pass can change them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ecograph.tools.data.digits import shifted


class Batches:
    """The training batches of an epoch, in a new order each time; a last batch that is not full is left out.

    Every image is moved by up to a pixel in each direction. Without this the task is solved after a few
    epochs, and then any arm is as good as any other.

    Args:
        images: ``(N, 1, H, W)``.
        labels: ``(N,)``.
        size: images per batch.
        seed: of the order and the shifts.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, size: int, seed: int) -> None:
        """Keeps the data; nothing is drawn yet."""
        self._images = images
        self._labels = labels
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return len(self._labels) // self._size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterates over one epoch."""
        order = torch.randperm(len(self._labels), generator=self._generator)
        for chosen in order[: len(self) * self._size].view(len(self), self._size):
            yield shifted(self._images[chosen], self._generator), self._labels[chosen]
