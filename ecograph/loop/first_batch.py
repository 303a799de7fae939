"""A look at the first batch of a loader, which leaves no trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecograph.loop.checkpoints.position import Position
from ecograph.loop.checkpoints.random_state import random_state, set_random_state


class NoBatchesError(ValueError):
    """A loader that gives no batches."""


def first_batch(loader: Any) -> Any:
    """Returns a loader's first batch, and leaves every random generator as it was.

    Raises:
        NoBatchesError: where it has none.
    """
    place = Position()
    before = random_state(), place.generators(loader)
    batch = next(iter(loader), None)
    set_random_state(before[0])
    place.set_generators(loader, before[1])
    if batch is None:
        raise NoBatchesError("the data gives no batches: it is empty, or smaller than a batch that must be full")
    return batch


def first_inputs(loader: Any) -> Any:
    """Returns what the model is called with for the first batch."""
    return inputs_of(first_batch(loader))


def inputs_of(batch: Any) -> Any:
    """Returns what the model is called with."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    return tuple(inputs) if isinstance(inputs, list) else dict(inputs) if isinstance(inputs, Mapping) else inputs


def samples_in(batch: Any) -> int:
    """Returns how many samples a batch has: the first size of its first tensor."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    return next((leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 1)
