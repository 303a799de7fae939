from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ecograph.passes.gradsamp.noise import standard_normal


def draw(shape: Any = (1000,), dtype: torch.dtype = torch.float32, **key: Any) -> Tensor:
    return standard_normal(shape, dtype, **({"seed": 0, "epoch": 3, "name": "fc.weight"} | key))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_standard_normal(dtype: torch.dtype) -> None:
    z = draw((200, 1000), dtype)
    assert z.dtype == dtype and z.shape == (200, 1000) and z.is_contiguous()
    z = z.double().flatten()
    for power, moment, tolerance in ((1, 0, 0.01), (2, 1, 0.02), (3, 0, 0.03), (4, 3, 0.1)):
        assert float(z.pow(power).mean()) == pytest.approx(moment, abs=tolerance)
    neighbours = float((z[1:] * z[:-1]).mean())
    assert neighbours == pytest.approx(0, abs=0.01)
    within = [float((z.abs() < bound).double().mean()) for bound in (0.5, 1, 2, 3)]
    assert within == pytest.approx([0.3829, 0.6827, 0.9545, 0.9973], abs=0.004)


def test_double_precision_is_no_widened_single_precision() -> None:
    z = draw(dtype=torch.float64)
    assert bool((z != z.float().double()).all())


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 4}, {"name": "fc.bias"}, {"seed": 33, "epoch": 0}])
def test_every_seed_epoch_and_parameter_has_its_own(other: dict[str, Any]) -> None:
    first, second = draw((10000,)), draw((10000,), **other)
    assert torch.equal(first, draw((10000,)))
    assert abs(float((first * second).mean())) < 0.05


def test_a_scalar() -> None:
    z = draw(())
    assert z.shape == () and z.dtype == torch.float32


def test_no_other_generator_moves_on() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    draw()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and np.random.get_state()[1].tolist() == before[2]
