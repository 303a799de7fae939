"""How far away what is run finds its code: by what others moved since the last one like it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecograph.cost.steps import record_step
from ecograph.cost.steps.recorder import HALF

MIB = 2**20


def swept(model: nn.Module, megabytes: int, name: str) -> list[float]:
    step = record_step(model, torch.empty(megabytes * MIB // 4), loss=lambda out: out.sum())
    return [op.swept for op in step.ops if op.name == name and op.phase == "forward"]


@pytest.mark.parametrize("megabytes", [1, 8, 64])
def test_it_grows_with_what_was_moved_since_the_last_of_its_kind(megabytes: int) -> None:
    first, second, third = swept(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.ReLU()), megabytes, "aten.relu")
    once = 2 * megabytes * MIB  # read and written
    assert first == 0.0
    assert second == pytest.approx(once / (once + HALF))
    assert third == pytest.approx(2 * once / (2 * once + HALF))
