from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from ecograph.cost.calibration import timing
from ecograph.cost.calibration.timing import time_in_turn
from ecograph.cost.calibration.workloads import Workload

aten = torch.ops.aten


class Clock:
    """Time that passes as it is told: each call of a workload takes the next of its seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def workload(self, seconds: Iterator[float]) -> Workload:
        def run(x: torch.Tensor) -> torch.Tensor:
            self.now += next(seconds)
            return aten.relu(x)

        return Workload("relu", run, lambda: (torch.ones(8),), "forward")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def steady(seconds: float) -> Iterator[float]:
    return itertools.repeat(seconds)


def test_each_takes_what_it_takes(clock: Clock) -> None:
    works = [clock.workload(steady(1.0)), clock.workload(steady(3.0))]
    (timed,) = time_in_turn(works)
    assert [each.seconds for each in timed.timings] == [1.0, 3.0]
    assert timed.spread == 0
    assert (timed.timings[0].name, timed.timings[0].kind, timed.timings[0].bytes) == ("aten.relu", "pointwise", 64)


def test_a_median_passes_over_what_was_disturbed(clock: Clock) -> None:
    # Described and warmed up first, which is not timed.
    seconds = itertools.chain([50.0, 50.0, 1.0, 1.0, 9.0], itertools.repeat(1.0))
    (timed,) = time_in_turn([clock.workload(seconds)])
    assert timed.timings[0].seconds == 1.0 and timed.spread < 0.04


def test_rounds_go_on_until_they_agree_or_are_too_many(clock: Clock) -> None:
    counted = []

    def restless() -> Iterator[float]:
        for seconds in itertools.cycle([1.0, 2.0]):
            counted.append(seconds)
            yield seconds

    (timed,) = time_in_turn([clock.workload(restless())])
    assert len(counted) == 2 + timing.MOST_ROUNDS and timed.spread > 0.5
    counted.clear()
    (timed,) = time_in_turn([clock.workload(restless())], seconds=4.0, least=3)
    assert len(counted) == 2 + 3


def test_groups_hold_so_many_workloads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "GROUP", 2)
    works = [clock.workload(steady(float(index))) for index in range(1, 6)]
    groups = list(time_in_turn(works))
    assert [[each.seconds for each in group.timings] for group in groups] == [[1.0, 2.0], [3.0, 4.0], [5.0]]
    monkeypatch.setattr(timing, "TOGETHER", 1)
    assert len(list(time_in_turn(works))) == 5


def test_a_workload_of_two_operations_is_a_mistake() -> None:
    work = Workload("two", lambda x: aten.relu(aten.neg(x)), lambda: (torch.ones(8),), "forward")
    with pytest.raises(AssertionError, match="two"):
        list(time_in_turn([work]))
