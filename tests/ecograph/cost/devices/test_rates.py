from __future__ import annotations

from typing import Any

import pytest

from ecograph.cost.devices import Timing, rates
from ecograph.cost.devices.rates import Rates
from ecograph.cost.steps import Op


def product(rows: int, seconds: float, **about: Any) -> Timing:
    """A timing of ``(rows, 256) @ (256, 256)``."""
    sizes = (1, rows, 256, 256)
    values = {"name": "aten.mm", "kind": "matmul", "phase": "forward", "grad": "", "dtype": "float32"} | about
    return Timing(
        **values, channels_last=False, sizes=sizes, flops=2 * rows * 256 * 256, bytes=4, strided=False, seconds=seconds
    )


def pointwise(count: int, seconds: float, **about: Any) -> Timing:
    values = {"name": "aten.gelu", "kind": "transcendental", "phase": "forward", "dtype": "float32"} | about
    return Timing(
        **values, grad="", channels_last=False, sizes=(), flops=0, bytes=8 * count, strided=False, seconds=seconds
    )


def op_of(timing: Timing, **about: Any) -> Op:
    names = ("name", "kind", "phase", "grad", "dtype", "channels_last", "sizes", "flops")
    return Op(**{name: getattr(timing, name) for name in names} | {"read": timing.bytes} | about)


#: From rows that are slow to rows that are fast: 10, 40 and 80 GFLOP/s.
PRODUCTS = tuple(product(rows, 2 * rows * 256 * 256 / rate) for rows, rate in ((8, 10e9), (128, 40e9), (2048, 80e9)))
OTHERS = (pointwise(2**10, 2e-6), pointwise(2**17, 1e-4), pointwise(2**22, 4e-3))


@pytest.mark.parametrize("timing", [*PRODUCTS, *OTHERS])
def test_what_was_timed(timing: Timing) -> None:
    assert Rates(PRODUCTS + OTHERS).seconds(op_of(timing)) == pytest.approx(timing.seconds, rel=0.02)


def test_between_two_timings_the_rate_is_between_theirs() -> None:
    between = product(512, 0.0)
    seconds = Rates(PRODUCTS).seconds(op_of(between))
    assert seconds is not None and 40e9 < between.flops / seconds < 80e9
    moved = Rates(OTHERS).seconds(op_of(pointwise(2**20, 0.0)))
    assert moved is not None and 1e-4 < moved < 4e-3


def conv(outputs: int, seconds: float = 0.0, groups: int = 1) -> Timing:
    """A timing of a convolution of 64 channels to some."""
    sizes = (8, groups, 64 // groups, outputs // groups, 9, 196, 196)
    flops = 2 * 8 * 196 * 9 * (64 // groups) * outputs
    about = {"name": "aten.convolution", "kind": "conv", "phase": "forward", "grad": "", "dtype": "float32"}
    return Timing(**about, channels_last=False, sizes=sizes, flops=flops, bytes=4, strided=False, seconds=seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [8, 16])
def test_a_convolution_computes_channels_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few channels take as long as a block of them, where they are in no groups."""
    monkeypatch.setattr(rates, "BLOCK", block)
    timed = Rates(tuple(conv(outputs, outputs * 1e-5) for outputs in (32, 64, 128)))
    blocks = [[64 - block * (count + 1) + 1, 64 - block * count] for count in range(2)]
    (last, full), (before, full_before) = ([timed.seconds(op_of(conv(each))) for each in pair] for pair in blocks)
    assert last == full != before == full_before
    grouped = Rates(tuple(conv(outputs, outputs * 1e-5, groups=4) for outputs in (32, 64, 128)))
    assert grouped.seconds(op_of(conv(36, groups=4))) != grouped.seconds(op_of(conv(40, groups=4)))


@pytest.mark.parametrize("timings", [PRODUCTS, OTHERS], ids=["products", "others"])
def test_beyond_both_ends_more_work_takes_longer(timings: tuple[Timing, ...]) -> None:
    make: Any = product if timings is PRODUCTS else pointwise
    sizes = [2, 4, 8, 2048, 8192, 2**16] if timings is PRODUCTS else [2**6, 2**10, 2**22, 2**23, 2**26]
    found = [Rates(timings).seconds(op_of(make(size, 0.0))) or 0.0 for size in sizes]
    assert found == sorted(found) and found[0] > 0
    # Far beyond the largest, time goes with the work, about.
    assert 0.8 < found[-1] / found[-2] / (sizes[-1] / sizes[-2]) < 1.5


def test_an_operation_smaller_than_any_takes_a_call() -> None:
    assert Rates(OTHERS).seconds(op_of(pointwise(1, 0.0))) == 2e-6


def test_what_stands_in() -> None:
    found = Rates((*PRODUCTS, *OTHERS, pointwise(2**17, 3e-4, phase="backward")))
    known = OTHERS[1]
    assert found.seconds(op_of(known, phase="backward")) == pytest.approx(3e-4)
    assert found.seconds(op_of(known, phase="recomputed")) == pytest.approx(1e-4, rel=0.02)
    assert found.seconds(op_of(known, phase="optimizer")) is not None  # another phase
    assert found.seconds(op_of(known, dtype="bfloat16")) is not None  # another type of number
    assert found.seconds(op_of(known, name="aten.mish")) is not None  # an operation of its kind
    assert found.seconds(op_of(known, name="aten.topk", kind="sorting")) is None


def test_a_product_in_a_type_that_was_not_timed_is_left_to_the_roofline() -> None:
    assert Rates(PRODUCTS).seconds(op_of(PRODUCTS[0], dtype="bfloat16")) is None
    assert Rates(()).seconds(op_of(OTHERS[0])) is None


def depthwise(seconds: float, stride: int, channels: int = 144) -> Timing:
    after = (28 // stride) ** 2
    sizes = (1, channels, 1, 1, 9, 28**2, after)
    about = {"name": "aten.convolution_backward", "kind": "conv", "phase": "backward", "grad": "grad_input"}
    flops = 2 * channels * after * 9
    return Timing(
        **about, dtype="bfloat16", channels_last=False, sizes=sizes, flops=flops, bytes=channels * 1600, strided=False,
        seconds=seconds,
    )  # fmt: skip


def test_a_strided_depthwise_convolution_says_nothing_of_others() -> None:
    timings = depthwise(1e-4, 1), depthwise(2e-3, 2)
    for expected, stride in ((1e-4, 1), (2e-3, 2)):
        assert Rates(timings).seconds(op_of(depthwise(0.0, stride, 136))) == pytest.approx(expected, rel=0.1)
    # Where none with a stride was timed, one without it stands in.
    assert Rates(timings[:1]).seconds(op_of(depthwise(0.0, 2))) == pytest.approx(1e-4, rel=0.8)
