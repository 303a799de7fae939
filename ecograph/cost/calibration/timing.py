"""Timing operations in turn, as a training step runs them: each after others, and not after itself."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.devices.device import Timing
from ecograph.cost.steps.kinds import VIEW
from ecograph.cost.steps.op import Op, Phase
from ecograph.cost.steps.recorder import Recorder

#: Bytes of operands and results that are in memory at a time.
TOGETHER = 2**29
#: How many workloads take turns, at most.
GROUP = 48
LEAST_ROUNDS, MOST_ROUNDS = 5, 15
#: Rounds go on until their durations agree to this share.
SPREAD = 0.04


@dataclass(frozen=True)
class Timed:
    """Workloads that took turns.

    Attributes:
        timings: of each.
        spread: how far the rounds lay apart: the middle half of them, as a share of their median.
    """

    timings: tuple[Timing, ...]
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


def describe(work: Workload, operands: tuple[Any, ...]) -> Op:
    """Returns the operation that a workload consists of, as a recorded step would have it."""
    nobody: Any = _Nobody(work.phase)
    recorder = Recorder(nobody, [], [each for each in operands if isinstance(each, torch.Tensor)])
    with recorder:
        work.run(*operands)
    ops = [op for op in recorder.ops if op.kind != VIEW]
    assert len(ops) == 1, (work.label, ops)
    return ops[0]


@torch.no_grad()
def time_in_turn(works: Sequence[Workload], seconds: float = math.inf, *, least: int = LEAST_ROUNDS) -> Iterator[Timed]:
    """Yields how long workloads take, in groups.

    Those of a group take turns: what a call finds in the caches is then what a step's calls find there.

    Args:
        works: what to time.
        seconds: to spend on all of them, if the least number of rounds does not take longer.
        least: rounds for each; 2 or more.
    """
    group: list[_Prepared] = []
    size = 0
    start = time.perf_counter()
    for at, work in enumerate(works, start=1):
        operands = work.make()
        op = describe(work, operands)
        before = work.make() if work.phase == "optimizer" else None
        group.append(_Prepared(work, operands, before, op))
        size += op.bytes * (1 if before is None else 2)
        if size > TOGETHER or len(group) == GROUP or at == len(works):
            yield _time_group(group, start + seconds * at / len(works), least)
            group, size = [], 0


def _time_group(group: list[_Prepared], until: float, least: int) -> Timed:
    times: list[list[float]] = [[] for _ in group]
    rounds: list[float] = []
    _round(group, [[] for _ in group])
    while len(rounds) < least or (
        len(rounds) < MOST_ROUNDS and _spread(rounds) > SPREAD and time.perf_counter() < until
    ):
        rounds.append(_round(group, times))
    taken = zip(group, map(statistics.median, times), strict=True)
    return Timed(tuple(_timing(each.work, each.op, seconds) for each, seconds in taken), _spread(rounds))


def _timing(work: Workload, op: Op, seconds: float) -> Timing:
    return Timing(
        name=op.name,
        kind=op.kind,
        phase=work.phase,
        grad=work.grad,
        dtype=op.dtype,
        channels_last=op.channels_last,
        sizes=op.sizes,
        flops=op.flops,
        bytes=op.bytes,
        strided=op.strided,
        seconds=seconds,
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
        start = time.perf_counter()
        result = work.run(*operands)
        seconds = time.perf_counter() - start
        if work.phase == "forward":
            kept.append(result)
        del result
        found.append(seconds)
        total += seconds
    return total


def _rewrite(operand: Any) -> None:
    """Writes what is there again, so that it is where the operation before would have left it."""
    if isinstance(operand, torch.Tensor) and operand.is_floating_point():
        operand.mul_(1.0)


def _spread(rounds: list[float]) -> float:
    """Returns how far apart the middle half of the rounds is, as a share of the median."""
    low, middle, high = statistics.quantiles(rounds, n=4)
    return (high - low) / middle
