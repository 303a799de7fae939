from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from ecograph.loop.checkpoints import CheckpointError, file
from ecograph.loop.checkpoints.position import Position, warn_of_persistent_workers
from ecograph.loop.checkpoints.random_state import random_state, set_random_state


class Augmented(Dataset[Tensor]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, torch.rand(1).item(), random.random(), np.random.rand()], dtype=torch.float64)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return (torch.rand(3) for _ in range(7))


def own(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": lambda: DataLoader(Augmented(), 4),
    "shuffled": lambda: DataLoader(Augmented(), 4, shuffle=True),
    "a generator of its own": lambda: DataLoader(Augmented(), 4, shuffle=True, generator=own()),
    "drawn one by one": lambda: DataLoader(
        Augmented(), 4, sampler=RandomSampler(Augmented(), replacement=True, num_samples=40, generator=own())
    ),
    "weighted": lambda: DataLoader(Augmented(), 4, sampler=WeightedRandomSampler(range(1, 21), 20)),
    "workers": lambda: DataLoader(Augmented(), 4, shuffle=True, num_workers=2),
    "a stream": lambda: DataLoader(Stream(), None),
    "a list": lambda: [torch.full((2,), float(i)) for i in range(6)],
}


def seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def batches(loader: Any, epochs: int) -> list[list[Tensor]]:
    return [[batch + torch.rand(1) for batch in loader] for _ in range(epochs)]


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("name", LOADERS)
def test_it_comes_back_to_its_place(name: str, at: int, tmp_path: Path) -> None:
    """Training draws a number per batch; after the place, and in the epoch after it, all batches are the same."""
    seed()
    expected = batches(LOADERS[name](), 3)

    seed()
    loader = LOADERS[name]()
    position = Position()
    for epoch in range(2):
        for count, batch in enumerate(position.begin(loader), start=1):
            torch.testing.assert_close(batch + torch.rand(1), expected[epoch][count - 1], rtol=0, atol=0)
            if epoch == 1 and count == at:
                break
    file.write(tmp_path / "a.pt", {"position": position.state_dict(), "random": random_state()})

    seed()
    random.random()
    state = file.read(tmp_path / "a.pt")
    loader = LOADERS[name]()
    resumed = Position()
    rest = [
        batch + torch.rand(1)
        for batch in resumed.go_on(loader, state["position"], lambda: set_random_state(state["random"]))
    ]
    assert resumed.batches == len(expected[1])
    rest += batches(loader, 1)[0]
    for found, wanted in zip(rest, expected[1][at:] + expected[2], strict=True):
        assert torch.equal(found, wanted)


def test_persistent_workers_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="persistent_workers=False makes it so"):
        warn_of_persistent_workers(DataLoader(Augmented(), 4, num_workers=1, persistent_workers=True))
    warn_of_persistent_workers(DataLoader(Augmented(), 4, num_workers=1))
    warn_of_persistent_workers([])


def test_generators_go_on_between_epochs_too(tmp_path: Path) -> None:
    expected = [torch.cat(list(loader)) for loader in [LOADERS["a generator of its own"]()] for _ in range(2)]
    loader = LOADERS["a generator of its own"]()
    position = Position()
    list(position.begin(loader))
    states = position.generators(loader)
    fresh = LOADERS["a generator of its own"]()
    Position().set_generators(fresh, states)
    assert torch.equal(torch.cat(list(fresh))[:, 0], expected[1][:, 0])


class Stateful(list[Tensor]):
    """A loader that knows its place, as torchdata's StatefulDataLoader does."""

    at = 0

    def __iter__(self) -> Any:
        start, self.at = self.at, 0
        for at, batch in enumerate(self[start:], start=start + 1):
            self.at = at
            yield batch
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_a_loader_that_knows_its_place_goes_there_itself() -> None:
    data = [torch.tensor(float(i)) for i in range(6)]
    position = Position()
    iterator = position.begin(Stateful(data))
    assert [next(iterator).item() for _ in range(2)] == [0, 1]
    rest = Position().go_on(Stateful(data), position.state_dict(), lambda: None)
    assert [each.item() for each in rest] == [2, 3, 4, 5]


def test_data_that_has_become_shorter() -> None:
    position = Position()
    iterator = position.begin([torch.zeros(1)] * 5)
    for _ in range(4):
        next(iterator)
    with pytest.raises(CheckpointError, match="ended after 3 batches, where 4 had been trained on"):
        list(Position().go_on([torch.zeros(1)] * 3, position.state_dict(), lambda: None))


def test_other_generators() -> None:
    with pytest.raises(CheckpointError, match="have 1 random generators of their own, and had 0"):
        Position().set_generators(LOADERS["a generator of its own"](), [])
