from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import ecograph
from ecograph.cost.estimate import Estimate, estimate
from ecograph.passes import SparseBackward

_X = torch.zeros(4, 3, 8, 8)
_SPARSE = SparseBackward(drop=0.75, when="always", skip_first=False, skip_last=False, min_channels=8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache folder."""
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path))


@pytest.fixture(scope="session")
def net() -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        convs = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3)]
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(2304, 8))

    return make


@pytest.fixture(scope="session")
def options() -> SparseBackward:
    return _SPARSE


@pytest.fixture(scope="session")
def plain(net: Callable[[], nn.Module]) -> Estimate:
    return estimate(net(), _X, optimizer=torch.optim.AdamW, device="generic-cpu")


@pytest.fixture(scope="session")
def sparse(net: Callable[[], nn.Module]) -> Estimate:
    model = ecograph.optimize(net(), example_inputs=_X, passes=[_SPARSE])
    return estimate(model, _X, optimizer=torch.optim.AdamW, device="generic-cpu")
