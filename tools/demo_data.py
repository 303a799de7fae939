"""scikit-learn's handwritten digits: 1,797 real 8x8 images, which come with the package: no download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.tools.errors import UserError

#: The split is the same for every run: seeds differ in initial weights and in the order of batches only.
SPLIT_SEED = 0
#: Most images are for testing: a small training set leaves errors to count, a large test set counts them
#: well.
TEST_SHARE = 0.7


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, 8, 8)``, standardized by the training part's statistics; labels ``(N,)``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load() -> Digits:
    """Returns the digits, 539 for training and 1,258 for testing, with equal shares of every class.

    Raises:
        UserError: where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(
            'the digits come with scikit-learn, which is not installed: pip install "ecograph[demo]"'
        ) from error
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=TEST_SHARE, stratify=labels, random_state=SPLIT_SEED)
    train, test = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in parts[:2])
    mean, deviation = train.mean(), train.std()
    return Digits(
        (train - mean) / deviation,
        torch.tensor(parts[2], dtype=torch.int64),
        (test - mean) / deviation,
        torch.tensor(parts[3], dtype=torch.int64),
    )


class Batches:
    """The training batches of an epoch, in a new order each time; a last batch that is not full is left out.

    Every image is moved by up to a pixel in each direction. Without this the task is solved after a few
    epochs, and then any arm is as good as any other.

    Args:
        images: ``(N, 1, H, W)``.
        labels: ``(N,)``.
        size: images per batch.
        seed: of the order and the shifts.
        tick: called after every batch, for a progress bar.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, *, size: int, seed: int, tick: Callable[[], None] | None = None
    ) -> None:
        """Keeps the data; nothing is drawn yet."""
        self._images = images
        self._labels = labels
        self._size = size
        self._tick = tick
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return len(self._labels) // self._size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterates over one epoch."""
        order = torch.randperm(len(self._labels), generator=self._generator)
        for chosen in order[: len(self) * self._size].view(len(self), self._size):
            yield shifted(self._images[chosen], self._generator), self._labels[chosen]
            if self._tick is not None:
                self._tick()


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns ``(N, 1, H, W)`` images, each moved by up to a pixel both ways; what comes in is background."""
    count, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), value=images.min().item()).squeeze(1)
    top, left = torch.randint(0, 3, (2, count, 1), generator=generator)
    rows = (top + torch.arange(height)).unsqueeze(2)
    columns = (left + torch.arange(width)).unsqueeze(1)
    return padded[torch.arange(count).view(-1, 1, 1), rows, columns].unsqueeze(1)
