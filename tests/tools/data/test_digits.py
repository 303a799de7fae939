from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor

from ecograph.tools.data import digits, find
from ecograph.tools.data.digits import Shifted, shifted
from ecograph.tools.data.loaders import Batching, loaders
from ecograph.tools.errors import UserError


@pytest.fixture
def forgotten() -> Iterator[None]:
    digits.load.cache_clear()
    yield
    digits.load.cache_clear()


def test_the_split(forgotten: None) -> None:
    data = digits.load()
    assert data.train_images.shape == (539, 1, 8, 8) and data.test_images.shape == (1258, 1, 8, 8)
    assert data.train_images.mean().abs() < 1e-5
    shares = [labels.bincount() / len(labels) for labels in (data.train_labels, data.test_labels)]
    torch.testing.assert_close(shares[0], shares[1], atol=2e-3, rtol=0)
    digits.load.cache_clear()
    assert torch.equal(data.test_images, digits.load().test_images)


def test_without_scikit_learn(forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r'pip install "ecograph\[demo\]"'):
        digits.load()


@pytest.mark.parametrize("generator", [torch.Generator().manual_seed(0), None])
def test_shifts_are_at_most_a_pixel(generator: torch.Generator | None) -> None:
    image = torch.zeros(200, 1, 8, 8)
    image[:, 0, 4, 4] = 1
    moved = shifted(image, generator)
    positions = {tuple(position) for position in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert positions == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_a_pixel_that_leaves_is_gone_and_background_comes_in() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3) - 5
    torch.manual_seed(0)
    for _ in range(30):
        moved = shifted(image)
        assert moved.min() >= -5 and moved[0, 0, 1, 1] in image  # whatever was moved there
        kept = [value for value in moved.unique().tolist() if value > -5]
        assert len(kept) >= 3


def test_only_images_to_train_on_move() -> None:
    plain, moving = find("digits"), find("digits:shifted")
    torch.manual_seed(0)
    assert not all(torch.equal(plain.train[at][0], moving.train[at][0]) for at in range(5))
    assert [plain.train[at][1] for at in range(5)] == [moving.train[at][1] for at in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(plain.val.tensors, moving.val.tensors, strict=True))


def epochs(seed: int, workers: int = 0, limit: int | None = None) -> list[list[Tensor]]:
    torch.manual_seed(seed)
    batching = Batching(size=32, limit=limit, workers=workers, drop_last=True)
    train, _ = loaders(find("digits:shifted"), batching, seed=seed)
    return [[part for batch in islice(train, 3) for part in batch] for _ in range(2)]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("workers", "limit"), [(0, None), (0, 200), (1, None)])
def test_batches_are_the_seed_s(workers: int, limit: int | None) -> None:
    first, second = epochs(0, workers, limit)
    assert [tuple(part.shape) for part in first] == [(32, 1, 8, 8), (32,)] * 3
    again = epochs(0, workers, limit)
    assert same(first, again[0]) and same(second, again[1])
    assert not same(first, second) and not same(first, epochs(1, workers, limit)[0])


def test_a_batch_is_moved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(digits, "shifted", lambda images: sizes.append(len(images)) or images)
    train, _ = loaders(find("digits:shifted"), Batching(size=100), seed=0)
    assert [len(labels) for _, labels in train] == sizes == [100] * 5 + [39]


def test_a_sample_at_an_end() -> None:
    data = Shifted(torch.zeros(3, 1, 8, 8), torch.arange(3))
    assert len(data) == 3 and data[-1][1] == 2
    with pytest.raises(IndexError):
        data[3]
