"""What a data set is to a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Data:
    """A data set to train on, and what to validate with.

    Attributes:
        spec: as the user wrote it.
        train: a ``torch.utils.data.Dataset`` of single samples, or whatever gives batches.
        val: the same, or None.
        loss: name of the loss that fits, in ``training.losses``.
    """

    spec: str
    train: Any
    val: Any
    loss: str = "cross_entropy"


@dataclass(frozen=True)
class Kind:
    """A kind of data set that a spec can name.

    Attributes:
        form: how its specs are written.
        says: what it is, in a line.
        make: returns the data set for what stands behind the first colon.
    """

    form: str
    says: str
    make: Callable[[str], Data]
