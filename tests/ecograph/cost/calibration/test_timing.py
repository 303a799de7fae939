from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from ecograph.cost.calibration import timing
from ecograph.cost.calibration.pages import pages_got
from ecograph.cost.calibration.timing import Turns, time_in_turn
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
    monkeypatch.setattr(timing, "LONG", 1000.0)
    monkeypatch.setattr(timing, "LONGEST", 4000.0)
    return made


def taken(turns: Turns, calling: float = 0.0) -> list[float]:
    return [timing.timing([each], calling).seconds for each in turns.timed]


def steady(seconds: float) -> Iterator[float]:
    return itertools.repeat(seconds)


def test_each_takes_what_it_takes(clock: Clock) -> None:
    works = [clock.workload(steady(1.0)), clock.workload(steady(3.0))]
    (turns,) = time_in_turn(works)
    assert taken(turns) == [1.0, 3.0]
    assert turns.spread == 0
    first = timing.timing(turns.timed[:1])
    assert (first.name, first.kind, first.bytes) == ("aten.relu", "pointwise", 64)


def test_what_calling_takes_is_no_part_of_it(clock: Clock) -> None:
    works = [clock.workload(steady(1.0)), clock.workload(steady(10.0))]
    (turns,) = time_in_turn(works)
    assert taken(turns, calling=2.0) == [timing.LEAST_SHARE, 8.0]


def test_a_workload_may_be_timed_several_times(clock: Clock) -> None:
    work = clock.workload(itertools.chain([1.0] * 7, itertools.repeat(3.0)))
    passes = [next(time_in_turn([work], least=5)).timed[0] for _ in range(3)]
    assert [each.seconds for each in passes] == [(1.0,) * 5, (3.0,) * 5, (3.0,) * 5]
    assert timing.timing(passes).seconds == 3.0


def test_a_call_in_the_optimizer_comes_after_one_like_it(clock: Clock) -> None:
    """On other operands: their code is in the caches then, and what it is called on is not."""
    called: list[torch.Tensor] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, FakeTensor):  # while it is described
            clock.now += 1.0 if called and called[-1] is not x else 5.0
            called.append(x)
        return aten.relu_(x)

    work = Workload("relu_", run, lambda: (torch.ones(8),), "optimizer", warm=None)
    other = clock.workload(steady(3.0))
    (turns,) = time_in_turn([work, other])
    assert taken(turns) == [1.0, 3.0]
    assert len({id(x) for x in called}) == 2


def test_a_median_passes_over_what_was_disturbed(clock: Clock) -> None:
    # Described and run once first, which is not timed.
    seconds = itertools.chain([50.0, 50.0, 1.0, 1.0, 9.0], itertools.repeat(1.0))
    (turns,) = time_in_turn([clock.workload(seconds)])
    assert taken(turns) == [1.0] and turns.spread < 0.04


def test_rounds_go_on_until_they_agree_or_are_too_many(clock: Clock) -> None:
    counted = []

    def restless() -> Iterator[float]:
        for seconds in itertools.cycle([1.0, 2.0]):
            counted.append(seconds)
            yield seconds

    (turns,) = time_in_turn([clock.workload(restless())])
    assert len(counted) == 2 + timing.MOST_ROUNDS and turns.spread > 0.5
    counted.clear()
    (turns,) = time_in_turn([clock.workload(restless())], seconds=4.0, least=3)
    assert len(counted) == 2 + 2, "the time is over"


def test_groups_hold_so_many_workloads(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "GROUP", 2)
    works = [clock.workload(steady(float(index))) for index in range(1, 6)]
    groups = list(time_in_turn(works))
    assert [taken(group) for group in groups] == [[1.0, 2.0], [3.0, 4.0], [5.0]]
    monkeypatch.setattr(timing, "TOGETHER", 1)
    assert len(list(time_in_turn(works))) == 5


def test_a_workload_of_two_operations_is_a_mistake() -> None:
    work = Workload("two", lambda x: aten.relu(aten.neg(x)), lambda: (torch.ones(8),), "forward")
    with pytest.raises(AssertionError, match="two"):
        list(time_in_turn([work]))


def product(clock: Clock, size: int, seconds: float) -> Workload:
    def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        clock.now += seconds
        return aten.mm(x, y)

    return Workload(f"mm {size}", run, lambda: (torch.ones(size, size), torch.ones(size, size)), "forward")


def test_what_takes_long_is_run_once_and_what_takes_longer_not_at_all(clock: Clock) -> None:
    # From 8 on it takes 1500 s, then eight times as long for each doubling.
    works = [product(clock, size, seconds) for size, seconds in ((4, 10.0), (8, 1500.0), (16, 12000.0), (9, 1600.0))]
    (turns,) = time_in_turn([*works, clock.workload(steady(1.0))], least=3)
    found = {timed.work.label: timed.seconds for timed in turns.timed}
    assert found == {"mm 4": (10.0,) * 3, "mm 8": (1500.0,), "mm 9": (1600.0,), "relu": (1.0,) * 3}


def test_what_moves_no_more_is_run_though_it_computes_more(clock: Clock) -> None:
    """With so few rows, a product takes as long as reading the weight does."""

    def rows(count: int) -> Workload:
        def run(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            clock.now += 1500.0
            return aten.mm(x, y)

        return Workload(f"{count}", run, lambda: (torch.ones(count, 64), torch.ones(64, 64)), "forward")

    (turns,) = time_in_turn([rows(1), rows(8)])
    assert taken(turns) == [1500.0, 1500.0]


def test_what_gets_memory_from_the_system_is_run_again_in_it(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = itertools.chain([0, 0, 0, 5000], itertools.repeat(5000))
    monkeypatch.setattr(timing, "pages_got", lambda: next(pages))
    # Described, run once, then in the first round with 5000 new pages.
    seconds = itertools.chain([1.0, 1.0, 70.0], itertools.repeat(2.0))
    (turns,) = time_in_turn([clock.workload(seconds)], least=3)
    assert turns.timed[0].seconds == (2.0, 2.0, 2.0)


def test_pages_are_counted() -> None:
    before = pages_got()
    with mmap.mmap(-1, 2**20) as new:
        new.write(bytes(2**20))
    assert pages_got() - before >= 2**20 / mmap.PAGESIZE / 2


@pytest.mark.parametrize(
    ("seconds", "dtype", "short"),
    [
        (0.04, torch.float32, True),
        (0.06, torch.float32, False),
        (0.04, torch.bfloat16, False),
        (0.009, torch.bfloat16, True),
    ],
)
def test_what_is_short_is_timed_again(clock: Clock, seconds: float, dtype: torch.dtype, short: bool) -> None:
    work = clock.workload(steady(seconds))
    (turns,) = time_in_turn([replace(work, make=lambda: (torch.ones(8, dtype=dtype),))])
    assert turns.timed[0].short == short


def test_nothing_but_what_takes_long(clock: Clock) -> None:
    (turns,) = time_in_turn([product(clock, 8, 1500.0)])
    assert turns.spread == 0.0 and taken(turns) == [1500.0]
