"""What real models are made with: the libraries that have them, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecograph.tools.torchvision_ops import declare_missing

declare_missing()

import timm  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402

__all__ = ["Real", "images", "timm", "tokens", "torchvision", "transformers"]


@dataclass(frozen=True)
class Real:
    """A model and what it is called with.

    Attributes:
        build: makes it.
        inputs: a batch of a size: keyword inputs, or a tensor.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]


def images(size: int) -> Callable[[int], Tensor]:
    """Returns what makes a batch of square images."""
    return lambda batch: torch.randn(batch, 3, size, size)


def tokens(vocabulary: int, length: int, *, labels: bool) -> Callable[[int], dict[str, Tensor]]:
    """Returns what makes a batch of texts, with a label for every token or for every text."""

    def make(batch: int) -> dict[str, Tensor]:
        ids = torch.randint(vocabulary, (batch, length))
        return {"input_ids": ids, "labels": ids if labels else torch.zeros(batch, dtype=torch.int64)}

    return make
