"""What the tasks have of their own: batches and a learning rate, which recorded results were taken with."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

Script = Callable[[str], ModuleType]


def test_batches(script: Script) -> None:
    images, labels = torch.randn(70, 1, 8, 8), torch.arange(70)
    make = script("tasks.batches").Batches
    batches = make(images, labels, size=32, seed=0)
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == 2
    assert all(x.shape == (32, 1, 8, 8) and y.shape == (32,) for x, y in first)
    assert not torch.equal(first[0][1], second[0][1])
    torch.manual_seed(5)  # the order and the shifts are of a generator of their own
    again = list(make(images, labels, size=32, seed=0))
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("total", [2, 10, 320])
def test_the_learning_rate_spans_the_training(script: Script, total: int) -> None:
    learning_rate = script("tasks.rate").learning_rate
    rates = [learning_rate(step, total=total) for step in range(total)]
    assert 0 < rates[0] <= 1 and max(rates) == 1
    assert learning_rate(total, total=total) == pytest.approx(0, abs=1e-9)
    assert all(rate >= 0 for rate in rates)
