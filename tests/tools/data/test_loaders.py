from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from ecograph.tools.data.kind import Data
from ecograph.tools.data.loaders import BATCH_SIZE, Batching, first_batch, loaders
from ecograph.tools.errors import UserError


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(torch.arange(70.0))


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(count))


def order(loader: Any) -> list[int]:
    return torch.cat([batch for (batch,) in loader]).tolist()


def test_order_is_the_seed_s() -> None:
    data = Data("x", numbers(100), numbers(10))
    train, val = loaders(data, Batching(), seed=3)
    first, second = order(train), order(train)
    assert sorted(first) == list(range(100)) and first != second
    again, _ = loaders(data, Batching(), seed=3)
    assert [order(again), order(again)] == [first, second]
    assert order(loaders(data, Batching(), seed=4)[0]) != first
    assert order(val) == list(range(10))
    assert len(train) == -(-100 // BATCH_SIZE)


def test_batching() -> None:
    train, val = loaders(Data("x", numbers(50), numbers(50)), Batching(size=8, limit=20, drop_last=True), seed=0)
    assert [len(batch) for (batch,) in train] == [8, 8]
    assert [len(batch) for (batch,) in val] == [8, 8, 4]
    other, _ = loaders(Data("x", numbers(50), None), Batching(limit=20), seed=9)
    chosen = order(val)
    assert sorted(order(other)) == chosen and chosen != list(range(20)), "which samples is not a matter of the seed"
    assert len(order(loaders(Data("x", numbers(5), None), Batching(limit=20), seed=0)[0])) == 5


def test_workers() -> None:
    train, _ = loaders(Data("x", numbers(40), None), Batching(size=10, workers=1), seed=3)
    alone, _ = loaders(Data("x", numbers(40), None), Batching(size=10), seed=3)
    assert order(train) == order(alone)


def test_streams_and_loaders_stay_as_they_are() -> None:
    train, val = loaders(Data("x", Stream(), [1, 2]), Batching(), seed=0)
    assert torch.cat(list(train)).tolist() == list(range(70))
    assert val == [1, 2]


@pytest.mark.parametrize(
    ("part", "batching", "word"),
    [
        (Stream(), Batching(limit=3), "stream"),
        ([1], Batching(size=3), "batch size"),
        ([1], Batching(limit=3), "limit"),
        ([1], Batching(workers=3), "workers"),
        ([1], Batching(drop_last=True), "drop_last"),
    ],
)
def test_what_has_no_effect_is_an_error(part: Any, batching: Batching, word: str) -> None:
    with pytest.raises(UserError, match=f"data 'x'.*{word}"):
        loaders(Data("x", part, None), batching, seed=0)


@pytest.mark.parametrize("own", [True, False])
def test_looking_at_the_first_batch_changes_nothing(own: bool) -> None:
    generator = torch.Generator().manual_seed(1) if own else None
    loader: Any = DataLoader(numbers(20), batch_size=5, sampler=RandomSampler(range(20), generator=generator))
    torch.manual_seed(5)
    expected = order(loader)
    if generator is not None:
        generator.manual_seed(1)
    torch.manual_seed(5)
    assert first_batch(loader)[0].tolist() == expected[:5]
    assert order(loader) == expected


def test_no_batches() -> None:
    with pytest.raises(UserError, match="no batches"):
        first_batch([])


@pytest.mark.parametrize(("train", "val", "words"), [(0, 5, "to train on"), (5, 0, "to validate with")])
def test_a_part_without_samples(train: int, val: int, words: str) -> None:
    with pytest.raises(UserError, match=f"'own.py:data' has no samples {words}: it is empty"):
        loaders(Data("own.py:data", numbers(train), numbers(val)), Batching(), seed=0)
