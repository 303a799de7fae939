"""How long an epoch is."""

from __future__ import annotations

import math
from typing import Any


def length(loader: Any) -> int | None:
    """Return how many batches a loader says it gives; None for a stream, which does not say."""
    try:
        return len(loader)
    except TypeError:  # an iterable without a length, or a loader of an IterableDataset
        return None


def steps_in(loader: Any, *, accumulate: int = 1) -> int:
    """Return how many optimizer steps an epoch has.

    Args:
        loader: of the training data.
        accumulate: batches per step; the last step takes what is left.

    Raises:
        ValueError: for a stream.
    """
    batches = length(loader)
    if batches is None:
        raise ValueError(
            f"the training data is a stream without a length ({type(loader).__name__}), and something in this loop "
            "must know how many steps an epoch has: give the data set a __len__, or leave out what is planned by steps"
        )
    return math.ceil(batches / accumulate)
