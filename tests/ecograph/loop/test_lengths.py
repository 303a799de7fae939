from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from ecograph.loop.lengths import length, steps_in


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize(("batches", "accumulate", "steps"), [(6, 1, 6), (6, 4, 2), (8, 4, 2), (1, 4, 1)])
def test_steps_of_an_epoch(batches: int, accumulate: int, steps: int) -> None:
    assert steps_in([None] * batches, accumulate=accumulate) == steps
    assert length(DataLoader(torch.zeros(batches), 1)) == batches  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", [iter([1, 2]), DataLoader(Stream())], ids=["iterator", "loader"])
def test_a_stream_has_none(stream: Any) -> None:
    assert length(stream) is None
    with pytest.raises(ValueError, match=r"a stream without a length \(\w+\).*give the data set a __len__"):
        steps_in(stream)
