from __future__ import annotations

import pytest

from ecograph.cost.devices.line import Line, fit

FLOPS = [1e6, 1e7, 1e8, 1e9, 1e6, 1e8]
MOVED = [1e4, 1e6, 1e5, 1e7, 1e7, 1e4]


@pytest.mark.parametrize(
    "line",
    [Line(1e-4, 1e-11, 1e-10), Line(0.0, 1e-11, 1e-10), Line(1e-4, 0.0, 1e-10), Line(1e-4, 1e-11, 0.0)],
    ids=["all", "no call", "no arithmetic", "no memory"],
)
def test_timings_on_a_line_are_found_again(line: Line) -> None:
    seconds = [line.seconds(flops, moved) for flops, moved in zip(FLOPS, MOVED, strict=True)]
    found = fit(FLOPS, MOVED, seconds)
    assert found == pytest.approx(line, rel=1e-6, abs=1e-18)


def test_nothing_is_negative_and_small_timings_count_as_much_as_large_ones() -> None:
    # The more bytes, the less time: bytes then say nothing.
    found = fit([1e6, 1e6, 1e6], [1e4, 1e5, 1e6], [3e-4, 2e-4, 1e-4])
    assert min(found) >= 0 and found.per_byte == 0
    # Off by a tenth both, a thousandfold apart.
    small, large = fit([1.0, 1.0, 1e9], [1.0, 1.0, 1.0], [1e-6, 1.1e-6, 1.0]).seconds(1.0, 1.0), 1.05e-6
    assert small == pytest.approx(large, rel=0.02)


@pytest.mark.parametrize("count", [1, 2])
def test_a_timing_or_two(count: int) -> None:
    found = fit(FLOPS[:count], MOVED[:count], [1e-3, 2e-3][:count])
    assert found.seconds(FLOPS[0], MOVED[0]) == pytest.approx(1e-3, rel=1e-6)
