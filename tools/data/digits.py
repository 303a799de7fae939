"""``digits``: scikit-learn's handwritten digits, 1,797 real 8x8 images. They come with the package: no download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from ecograph.tools.data.kind import Data, Kind
from ecograph.tools.errors import UserError

#: The split is the same for every run: seeds differ in initial weights, in the order of batches and in shifts only.
SPLIT_SEED = 0
#: Most images are for testing: a small training set leaves errors to count, a large test set counts them
#: well.
TEST_SHARE = 0.7

#: What may follow after ``digits:``.
SHIFTED = "shifted"


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, 8, 8)``, standardized by the training part's statistics; labels ``(N,)``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class Shifted(Dataset[tuple[Tensor, Tensor]]):
    """Images that are moved anew each time they are asked for, with their labels.

    The moves are drawn from torch's global generator, which is seeded with a training, kept in its checkpoints, and
    seeded anew in each worker of a loader.

    Args:
        images: ``(N, 1, H, W)``.
        labels: ``(N,)``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """Keeps the images as they are."""
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns an image and its label."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Returns the images and labels of a batch: moved all at once, which costs as little as moving one."""
        chosen = torch.tensor(indices)
        return list(zip(shifted(self._images[chosen]), self._labels[chosen], strict=True))


def make(rest: str) -> Data:
    """Returns 539 images ``(1, 8, 8)`` with their class, and 1,258 for validation.

    With ``shifted``, the images to train on are moved. Without that the task is solved after a few epochs, and then one
    way of training is as good as any other.

    Raises:
        UserError: for another option; and where scikit-learn is not installed.
    """
    if rest not in ("", SHIFTED):
        raise UserError(f"data 'digits:{rest}': give digits, or digits:{SHIFTED}")
    found = load()
    kind = Shifted if rest == SHIFTED else TensorDataset
    return Data(
        f"digits:{rest}" if rest else "digits",
        kind(found.train_images, found.train_labels),
        TensorDataset(found.test_images, found.test_labels),
    )


@cache
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


def shifted(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Returns images, each moved by up to a pixel both ways; what comes in is background.

    Args:
        images: ``(N, 1, H, W)``.
        generator: of the moves; None for torch's global one.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), value=images.min().item()).squeeze(1)
    top, left = torch.randint(0, 3, (2, count, 1), generator=generator)
    rows = (top + torch.arange(height)).unsqueeze(2)
    columns = (left + torch.arange(width)).unsqueeze(1)
    return padded[torch.arange(count).view(-1, 1, 1), rows, columns].unsqueeze(1)


KIND = Kind(
    f"digits[:{SHIFTED}]",
    "scikit-learn's handwritten digits, images 1x8x8: 539 to train on, 1,258 to validate; "
    f"{SHIFTED} moves those to train on by up to a pixel, anew each time",
    make,
)
