"""Timing operations in turn, as a training step runs them: each after others, and not after itself."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ecograph.cost.calibration.pages import pages_got
from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.devices.device import Timing
from ecograph.cost.devices.rates import alike
from ecograph.cost.steps.kinds import VIEW
from ecograph.cost.steps.op import Op, Phase
from ecograph.cost.steps.recorder import Recorder

#: Bytes of operands and results that are in memory at a time.
TOGETHER = 2**29
#: How many workloads take turns, at most.
GROUP = 48
LEAST_ROUNDS, MOST_ROUNDS = 5, 15
#: Share of a timing that is the operation's own at least, whatever calling it takes.
LEAST_SHARE = 0.2
#: Seconds of what is run once alone, and of what is not run at all, where it may be told before.
LONG, LONGEST = 0.02, 0.1
#: Seconds of what is timed again in another pass, at most. In 16-bit numbers, half of all takes longer where a
#: processor has no instructions for them, and there is no time for it.
SHORT, SHORT_IN_16_BITS = 0.05, 0.01
#: Pages that an operation may get from the system, each of which takes a microsecond or two.
FEW_PAGES = 64
#: Rounds go on until their durations agree to this share.
SPREAD = 0.04


@dataclass(frozen=True)
class Timed:
    """A workload that was timed.

    Attributes:
        work: the workload.
        op: what it is.
        seconds: of each round.
    """

    work: Workload
    op: Op
    seconds: tuple[float, ...]

    @property
    def short(self) -> bool:
        """Whether it takes so little that it is worth to time it again, at another time."""
        most = SHORT_IN_16_BITS if self.op.dtype == "bfloat16" else SHORT
        return statistics.median(self.seconds) < most


@dataclass(frozen=True)
class Turns:
    """Workloads that took turns.

    Attributes:
        timed: each of them.
        spread: how far the rounds lay apart: the middle half of them, as a share of their median.
    """

    timed: tuple[Timed, ...]
    spread: float


@dataclass(frozen=True)
class _Prepared:
    """A workload with its operands, and what it is.

    Attributes:
        work: the workload.
        operands: of the call that is timed.
        before: of a call before it, where a step makes the same call again and again: then its code is in the caches,
            and what it is called on is not.
        op: what it is.
    """

    work: Workload
    operands: tuple[Any, ...]
    before: tuple[Any, ...] | None
    op: Op


class _Nobody:
    """Owner of all operations that are timed."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase

    def now(self) -> tuple[Phase, str]:
        return self._phase, ""

    def uses_weight(self) -> None:
        pass

    def differentiates_weighted(self) -> bool:
        return False

    def python_function(self) -> None:
        return None

    def in_engine(self) -> bool:
        return False


def describe(work: Workload, operands: tuple[Any, ...]) -> Op:
    """Returns the operation that a workload consists of, as a recorded step would have it. Nothing is computed."""
    nobody: Any = _Nobody(work.phase)
    with _without_data() as mode:
        fakes = [mode.from_tensor(each) if isinstance(each, torch.Tensor) else each for each in operands]
        recorder = Recorder(nobody, [], [each for each in fakes if isinstance(each, torch.Tensor)])
        with recorder:
            work.run(*fakes)
    ops = [op for op in recorder.ops if op.kind != VIEW]
    assert len(ops) == 1, (work.label, ops)
    return ops[0]


@cache
def _without_data() -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


@torch.no_grad()
def time_in_turn(
    works: Sequence[Workload],
    seconds: float = math.inf,
    *,
    least: int = LEAST_ROUNDS,
    known: Callable[[Workload], Op | None] = lambda work: None,
) -> Iterator[Turns]:
    """Yields how long workloads take, in groups.

    Those of a group take turns: what a call finds in the caches is then what a step's calls find there. What takes very
    long is run once; and larger products like one that does, which would take longer still, are left out: some
    processors are a hundred times slower in a type of numbers that they have no instructions for.

    Args:
        works: what to time.
        seconds: to spend on all of them, if one round does not take longer.
        least: rounds for each, if there is time for them.
        known: what a workload is, if that is known; to find out takes longer than many take themselves.
    """
    group: list[_Prepared] = []
    long: list[Timed] = []
    size = 0
    #: What a product is like -> the last one like it that took long.
    slow: dict[tuple[object, ...], Timed] = {}
    start = time.perf_counter()
    for at, work in enumerate(works, start=1):
        operands = work.make()
        op = known(work) or describe(work, operands)
        if alike(op) not in slow or _at_least(op, slow[alike(op)]) <= LONGEST:
            each = _Prepared(work, operands, work.make() if work.phase == "optimizer" else None, op)
            once = _round([each], [[]])
            if once > LONG:
                slow[alike(op)] = Timed(work, op, (once,))
                long.append(slow[alike(op)])
            else:
                group.append(each)
                size += op.bytes * (1 if each.before is None else 2)
        if size > TOGETHER or len(group) == GROUP or at == len(works):
            yield _time_group(group, long, start + seconds * at / len(works), least)
            group, long, size = [], [], 0


def _at_least(op: Op, slow: Timed) -> float:
    """Returns the seconds that a product takes at least, by one like it."""
    more = min(op.flops / max(slow.op.flops, 1), op.bytes / max(slow.op.bytes, 1))
    return more * statistics.median(slow.seconds)


def _time_group(group: list[_Prepared], long: list[Timed], until: float, least: int) -> Turns:
    """Times what does not take long, in turn; all of it has been run once."""
    times: list[list[float]] = [[] for _ in group]
    rounds: list[float] = []
    while group and len(rounds) < MOST_ROUNDS:
        if rounds and time.perf_counter() > until or len(rounds) >= least and _spread(rounds) < SPREAD:
            break
        rounds.append(_round(group, times))
    timed = (Timed(each.work, each.op, tuple(found)) for each, found in zip(group, times, strict=True))
    return Turns((*timed, *long), _spread(rounds))


def timing(found: Sequence[Timed], calling: float = 0.0) -> Timing:
    """Returns how long a workload takes, of all rounds of it; one on several tensors, for each of them.

    Args:
        found: the workload, timed once or several times.
        calling: seconds that calling it takes here, and not in a step; see ``overhead.Calling``.
    """
    work, op = found[0].work, found[0].op
    seconds = statistics.median(each for timed in found for each in timed.seconds)
    return Timing(
        name=op.name,
        kind=op.kind,
        phase=work.phase,
        grad=work.grad,
        dtype=op.dtype,
        channels_last=op.channels_last,
        sizes=op.sizes,
        flops=op.flops,
        bytes=op.bytes // op.parts,
        strided=op.strided,
        seconds=max(seconds - calling, LEAST_SHARE * seconds) / op.parts,
    )


def _round(group: list[_Prepared], times: list[list[float]]) -> float:
    """Runs every workload once; results of the forward are kept until all have run."""
    kept = []
    total = 0.0
    for each, found in zip(group, times, strict=True):
        work, operands = each.work, each.operands
        if each.before is not None:
            work.run(*each.before)
        if work.warm is not None:
            _rewrite(operands[work.warm])
        result, seconds, pages = _run(work, operands)
        if pages > FEW_PAGES:
            del result
            result, seconds, _ = _run(work, operands)  # in the same memory, which is there now
        if work.phase == "forward":
            kept.append(result)
        del result
        found.append(seconds)
        total += seconds
    return total


def _run(work: Workload, operands: tuple[Any, ...]) -> tuple[Any, float, int]:
    """Returns the result of a workload, the seconds that it took, and the pages that it got from the system."""
    before, start = pages_got(), time.perf_counter()
    result = work.run(*operands)
    seconds = time.perf_counter() - start
    return result, seconds, pages_got() - before


def _rewrite(operand: Any) -> None:
    """Writes what is there again, so that it is where the operation before would have left it."""
    if isinstance(operand, torch.Tensor) and operand.is_floating_point():
        operand.mul_(1.0)


def _spread(rounds: list[float]) -> float:
    """Returns how far apart the middle half of the rounds is, as a share of the median."""
    if len(rounds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(rounds, n=4)
    return (high - low) / middle
