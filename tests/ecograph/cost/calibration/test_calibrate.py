"""Real calibrations, of a few operations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ecograph.cost.calibration.calibrate  # noqa: F401  # the function of this name hides it
from ecograph.cost.calibration import calibrate
from ecograph.cost.calibration.overhead import Calling, Overheads, middle, time_calling, time_new_memory, time_overheads
from ecograph.cost.calibration.settle import settle
from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.calibration.workloads.matmuls import linear
from ecograph.cost.calibration.workloads.workload import noise
from ecograph.cost.devices import Roofline, find_device, stored

module: Any = sys.modules["ecograph.cost.calibration.calibrate"]


def few(dtype: torch.dtype) -> list[Any]:
    def two() -> tuple[torch.Tensor, ...]:
        return noise(64, 64, dtype=dtype), noise(64, 64, dtype=dtype)

    moving = Workload("clone", lambda x, y: torch.ops.aten.clone(x), two, "forward")
    return [
        module.Part("products", list(linear(8, 64, 64, dtype)), 0.5),
        module.Part("others", [moving], 0.5),
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "parts_of", few)
    monkeypatch.setattr(module, "settle", lambda rest: 1.0)
    monkeypatch.setattr(module.overhead, "time_new_memory", lambda: 1e-9)


@pytest.mark.usefixtures("small")
def test_a_small_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Any] = []
    device = calibrate(tell=told.append)
    assert device.name == stored.cpu(1) and device.threads == 1 and device.calibrated
    assert {timing.dtype for timing in device.timings} == {"float32", "bfloat16"}
    assert len(device.timings) == 8
    assert told[-1].done == told[-1].total == module.PASSES * 8
    assert [each.done for each in told] == sorted(each.done for each in told)
    assert set(device.flops) == {"float32", "bfloat16", "float16", "float64"}
    assert device.flops["float32"].source == "calibrated here: the fastest product"
    assert device.flops["float64"].value == device.flops["float32"].value / 2
    assert set(device.overhead) == {"forward", "recomputed", "backward", "optimizer", "function", "python"}
    assert set(device.swept) == {"view", "call", "function", "python"}
    assert all(each.seconds > 0 for each in device.timings) and device.call.value > 0
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path))
    stored.save(device)
    assert find_device() == device
    with torch.no_grad():
        from ecograph.cost.calibration.timing import describe

        for part in few(torch.float32):
            for work in part.works:
                assert 0 < Roofline(device).seconds(describe(work, work.make())) < 1


@pytest.mark.usefixtures("small")
def test_one_type_of_numbers() -> None:
    device = calibrate(["bfloat16"], quick=True)
    assert {timing.dtype for timing in device.timings} == {"bfloat16"}
    assert device.flops["float32"].source == "assumed: as fast as bfloat16"


def test_types_that_are_not_timed() -> None:
    with pytest.raises(ValueError, match="dtype 'float8' is not timed: give float32 or bfloat16"):
        calibrate(["float32", "float8"])
    with pytest.raises(ValueError, match="dtypes is empty"):
        calibrate([])


@pytest.mark.usefixtures("small")
def test_a_clock_that_changes_between_parts_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = iter([1.0, 1.0, 1.0, 2.0, 2.0])
    monkeypatch.setattr(module, "settle", lambda rest: next(paces))
    assert calibrate(quick=True).spread >= 0.6


@pytest.mark.parametrize(("paces", "expected"), [([], 0), ([1.0], 0), ([1.0, 1.0, 1.0], 0), ([1.0, 2.0, 3.0], 0.5)])
def test_how_far_durations_lie_apart(paces: list[float], expected: float) -> None:
    assert module.apart(paces) == expected


def test_what_a_call_costs_beside_its_work() -> None:
    found = middle([time_overheads() for _ in range(3)])
    assert set(found.beside) == {"forward", "recomputed", "backward", "optimizer", "function", "python"}
    assert set(found.swept) == {"function", "python", "view", "call"}
    assert all(0 <= seconds < 1e-3 for seconds in (*found.beside.values(), *found.swept.values()))
    assert found.beside["forward"] > 0 and found.swept["view"] > 0
    assert 0 <= time_new_memory(2**22) < 1e-6


def test_the_middle_of_overheads() -> None:
    found = [Overheads(Calling(each, 2 * each), {"forward": 3 * each}, {"view": 4 * each}) for each in (1.0, 9.0, 2.0)]
    assert middle(found) == Overheads(Calling(2.0, 4.0), {"forward": 6.0}, {"view": 8.0})


def test_what_calling_an_operation_takes_here_alone() -> None:
    found = time_calling()
    assert 0 <= found.other < 1e-4 and 0 < found.conv < 1e-3
    assert (found("conv"), found("matmul"), found("pointwise")) == (found.conv, found.other, found.other)


def test_settling_ends() -> None:
    assert 0 < settle(0.0) < 1
