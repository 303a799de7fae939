"""By hand, on a device of round numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from ecograph.cost.devices import Device, Figure, Roofline, Timing, find_device
from ecograph.cost.steps import Op


def op(**about: Any) -> Op:
    return Op(**{"name": "aten.x", "kind": "pointwise", "phase": "forward", "fresh": False} | about)


CASES: dict[str, tuple[Op, float, float]] = {
    # 1e6 FLOPs at half of 1e9 a second; energy: 10 W for as long, a nJ for each
    "compute": (op(flops=10**6, read=8), 2e-3 + 1e-6, 10 * (2e-3 + 1e-6) + 1e-3 + 8e-9),
    "four times as fast": (op(flops=10**6, dtype="bfloat16"), 0.5e-3 + 1e-6, 10 * (0.5e-3 + 1e-6) + 1e-3),
    "as float32": (op(flops=10**6, dtype="complex64"), 2e-3 + 1e-6, 10 * (2e-3 + 1e-6) + 1e-3),
    "memory": (op(flops=100, read=5000, written=5000), 1e-5 + 1e-6, 10 * 1.1e-5 + 1e-7 + 1e-5),
    "call": (op(read=8), 2e-6, 2e-5 + 8e-9),
    "backward": (op(read=8, phase="backward"), 3e-6, 3e-5 + 8e-9),
    "view": (op(kind="view", count=3), 3e-6, 3e-5),
    "view in the optimizer": (op(kind="view", phase="optimizer"), 0.0, 0.0),
    "often": (op(read=8, count=5), 1e-5, 1e-4 + 4e-8),
    "new memory": (op(written=2000, fresh=True), 2e-6 + 2e-6 + 1e-6, 5e-5 + 2e-6),
    "memory used again": (op(written=1000, fresh=True), 2e-6, 2e-5 + 1e-6),
    "in place": (op(written=2000), 3e-6, 3e-5 + 2e-6),
}


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that another test ran has this process keep its memory."""
    monkeypatch.setattr("ecograph.cost.devices.roofline.keeps_memory", lambda: False)


def test_memory_that_is_kept_is_never_new(round_cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    given, seconds, _ = CASES["new memory"]
    assert Roofline(round_cpu).seconds(given) == pytest.approx(seconds)
    monkeypatch.setattr("ecograph.cost.devices.roofline.keeps_memory", lambda: True)
    assert Roofline(round_cpu).seconds(given) == pytest.approx(3e-6)
    # What this process does says nothing about another device.
    assert Roofline(round_cpu).seconds(replace(given, device="cuda")) == pytest.approx(seconds)


def test_a_function_written_in_python(round_cpu: Device) -> None:
    called = op(kind="function", phase="backward", count=3)
    assert Roofline(round_cpu).seconds(called) == 0.0
    known = replace(round_cpu, overhead={**round_cpu.overhead, "function": Figure(4e-5, "")})
    assert Roofline(known).seconds(called) == pytest.approx(1.2e-4)


def test_what_lies_between_operations_takes_longer_with_full_caches(round_cpu: Device) -> None:
    swept = {"view": 1e-4, "python": 1e-3, "call": 1e-2}
    roofline = Roofline(replace(round_cpu, swept={of: Figure(value, "") for of, value in swept.items()}))
    assert roofline.seconds(op(kind="view", phase="backward", count=2)) == pytest.approx(4e-6)
    assert roofline.seconds(op(kind="view", phase="backward", swept=0.5)) == pytest.approx(2e-6 + 5e-5)
    assert roofline.seconds(op(kind="view", phase="forward", swept=0.5)) == pytest.approx(1e-6 + 5e-5)
    assert roofline.seconds(op(kind="python", swept=0.25, count=4)) == pytest.approx(1e-3)
    product = op(kind="matmul", phase="backward", flops=10**6)
    assert roofline.seconds(replace(product, swept=1.0)) == pytest.approx(roofline.seconds(product) + 1e-2)
    updated = replace(product, phase="optimizer")
    assert roofline.seconds(replace(updated, swept=1.0)) == roofline.seconds(updated)


@pytest.mark.parametrize(("given", "seconds", "joules"), CASES.values(), ids=CASES)
def test_by_hand(round_cpu: Device, given: Op, seconds: float, joules: float) -> None:
    roofline = Roofline(round_cpu)
    assert roofline.seconds(given) == pytest.approx(seconds)
    assert roofline.joules(given) == pytest.approx(joules)
    assert roofline.cost(given) == (roofline.seconds(given), roofline.joules(given))


def test_a_total_is_a_sum(round_cpu: Device) -> None:
    roofline = Roofline(round_cpu)
    ops = [given for given, *_ in CASES.values()]
    assert roofline.total(iter(ops)) == pytest.approx((sum(map(roofline.seconds, ops)), sum(map(roofline.joules, ops))))


def test_a_timing_is_taken_in_place_of_the_roofline(round_cpu: Device) -> None:
    timing = Timing("aten.mm", "matmul", "forward", "", "float32", False, (1, 8, 8, 8), 1024, 768, False, 5e-5)
    product = op(name="aten.mm", kind="matmul", sizes=(1, 8, 8, 8), flops=1024, read=512, written=256)
    assert Roofline(replace(round_cpu, timings=(timing,))).seconds(product) == pytest.approx(5.1e-5)


@pytest.fixture
def precisions() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("precisions")
def test_float32_runs_in_tf32_where_torch_is_set_so() -> None:
    roofline = Roofline(find_device("a100"))
    matmul, conv = (op(kind=kind, flops=10**13, sizes=(1,) * 7) for kind in ("matmul", "conv"))
    exact, tf32 = 10**13 / (0.6 * 19.5e12), 10**13 / (0.6 * 156e12)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True  # torch's defaults
    assert (roofline.seconds(matmul), roofline.seconds(conv)) == pytest.approx((exact, tf32))
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    assert (roofline.seconds(matmul), roofline.seconds(conv)) == pytest.approx((tf32, exact))
    assert roofline.seconds(replace(matmul, dtype="float16")) == pytest.approx(10**13 / (0.6 * 312e12))


def test_no_tf32_on_a_gpu_without() -> None:
    assert Roofline(find_device("v100")).seconds(op(kind="conv", flops=10**13)) == pytest.approx(1e13 / (0.6 * 15.7e12))
