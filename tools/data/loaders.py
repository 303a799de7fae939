"""Batches of a data set: the loaders that a training loop goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from ecograph.tools.data.kind import Data
from ecograph.tools.errors import UserError

BATCH_SIZE = 32


@dataclass(frozen=True)
class Batching:
    """How batches are made of samples.

    Attributes:
        size: samples in a batch; None for 32, and for loaders, which make their own.
        limit: train and validate with at most so many samples, chosen once.
        workers: processes that read samples; 0 reads them in this one.
        drop_last: leave out a last batch that is not full, in training.
    """

    size: int | None = None
    limit: int | None = None
    workers: int = 0
    drop_last: bool = False


def loaders(data: Data, batching: Batching, *, seed: int) -> tuple[Any, Any]:
    """Returns the loaders for training, in a new order each epoch, and for validation, or None.

    Args:
        data: what :func:`find` returned.
        batching: how to make batches.
        seed: of the order.

    Raises:
        UserError: for options that the data cannot have.
    """
    generator = torch.Generator().manual_seed(seed)
    train = _loader(data, data.train, batching, generator)
    return train, None if data.val is None else _loader(data, data.val, batching, None)


def first_batch(loader: Any) -> Any:
    """Returns a loader's first batch, and leaves every random generator as it was.

    Raises:
        UserError: where it has none.
    """
    from ecograph.loop.first_batch import NoBatchesError
    from ecograph.loop.first_batch import first_batch as look

    try:
        return look(loader)
    except NoBatchesError as error:
        raise UserError(str(error)) from error


def _loader(data: Data, part: Any, batching: Batching, generator: torch.Generator | None) -> Any:
    """Returns a loader of a part; one that shuffles where there is a generator."""
    if not isinstance(part, Dataset):
        given = {"batch size": batching.size, "limit": batching.limit, "workers": batching.workers or None}
        given["drop_last"] = batching.drop_last or None
        if useless := [name for name, value in given.items() if value is not None]:
            raise UserError(
                f"data {data.spec!r} gives batches already, so {useless[0]} has no effect: leave it out, or return a "
                "torch.utils.data.Dataset of samples"
            )
        return part
    stream = isinstance(part, IterableDataset)
    if not stream and len(part) == 0:  # type: ignore[arg-type]
        what = "train on" if generator is not None else "validate with"
        raise UserError(f"data {data.spec!r} has no samples to {what}: it is empty")
    if batching.limit is not None:
        if stream:
            raise UserError(
                f"data {data.spec!r} is a stream, so a limit of {batching.limit} has no meaning: leave it out"
            )
        part = _some(part, batching.limit)
    return DataLoader(
        part,
        batch_size=batching.size or BATCH_SIZE,
        shuffle=generator is not None and not stream,
        generator=generator,
        num_workers=batching.workers,
        persistent_workers=batching.workers > 0,
        drop_last=batching.drop_last and generator is not None,
    )


def _some(part: Any, count: int) -> Any:
    """Returns ``count`` of the samples, the same ones each time."""
    if count >= len(part):
        return part
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:count]
    return Subset(part, chosen.sort().values.tolist())
