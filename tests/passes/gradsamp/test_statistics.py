"""Against Python's own statistics module, in float64 and element by element."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from ecograph.passes.gradsamp.statistics import joint_moments, moments


def by_hand(change: Tensor) -> tuple[float, float]:
    values = change.double().flatten().tolist()
    return statistics.fmean(values), statistics.pstdev(values)


def close(found: Any, expected: Any, dtype: torch.dtype = torch.float64) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    found, expected = (torch.as_tensor(each, dtype=torch.float64) for each in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


SHAPES = [(), (1,), (7,), (5, 3), (4, 3, 2, 2), (6, 1), (1, 6)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_of_a_tensor_and_of_elements(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    change = torch.randn(shape, dtype=dtype) * 0.1 + 0.3
    mean, spread = moments(change, "tensor")
    assert mean.dtype == spread.dtype == dtype
    close(torch.stack([mean, spread]), by_hand(change), dtype)
    mean, spread = moments(change, "element")
    assert torch.equal(mean, change)
    close(spread, by_hand(change)[1], dtype)


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2), (1, 6)])
def test_of_channels(shape: tuple[int, ...]) -> None:
    change = torch.randn(shape, dtype=torch.float64)
    mean, spread = (torch.broadcast_to(each, shape) for each in moments(change, "channel"))
    for index, row in enumerate(change):
        expected = by_hand(row)
        close(mean[index], expected[0] * torch.ones_like(row))
        close(spread[index], expected[1] * torch.ones_like(row))


@pytest.mark.parametrize("shape", [(), (7,), (6, 1), (6, 1, 1)])
def test_channels_of_one_element_count_as_one(shape: tuple[int, ...]) -> None:
    change = torch.randn(shape, dtype=torch.float64)
    close(torch.stack(moments(change, "channel")), by_hand(change))


def test_of_all_parameters_together() -> None:
    changes = [torch.randn(shape) + at for at, shape in enumerate(SHAPES)]
    together = torch.cat([change.flatten() for change in changes])
    close(joint_moments(lambda: iter(changes)), by_hand(together), torch.float32)
    assert joint_moments(lambda: iter(())) == (0, 0)


def test_a_small_spread_around_a_large_mean() -> None:
    change = torch.randn(10000, dtype=torch.float64) * 1e-4 + 1
    expected = by_hand(change)
    assert float(moments(change.float(), "tensor")[1]) == pytest.approx(expected[1], rel=1e-3)
    assert joint_moments(lambda: [change.float()])[1] == pytest.approx(expected[1], rel=1e-3)
