"""Timing operations in turn, as a training step runs them: each after others, and not after itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.devices.device import Timing
from ecograph.cost.steps.kinds import VIEW
from ecograph.cost.steps.op import Op, Phase
from ecograph.cost.steps.recorder import Recorder

#: Bytes of operands that are in memory at a time.
_TOGETHER = 2**29
#: How many workloads take turns, at most.
_GROUP = 48
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 15
#: Rounds go on until their durations agree to this share.
_SPREAD = 0.04


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
def time_in_turn(works: Sequence[Workload], done: Callable[[int], None] = lambda count: None) -> Iterator[Timing]:
    """Yields how long each workload takes.

    Some of them take turns: what a call finds in the caches is then what a step's calls find there.

    Args:
        works: what to time.
        done: is told how many workloads more have been timed.
    """
    group: list[tuple[Workload, tuple[Any, ...], Op]] = []
    size = 0
    for at, work in enumerate(works):
        operands = work.make()
        op = describe(work, operands)
        group.append((work, operands, op))
        size += op.bytes
        if size > _TOGETHER or len(group) == _GROUP or at == len(works) - 1:
            yield from _time_group(group)
            done(len(group))
            group, size = [], 0


def _time_group(group: list[tuple[Workload, tuple[Any, ...], Op]]) -> Iterator[Timing]:
    times: list[list[float]] = [[] for _ in group]
    rounds: list[float] = []
    _round(group, [[] for _ in group])
    while len(rounds) < _LEAST_ROUNDS or (len(rounds) < _MOST_ROUNDS and _spread(rounds) > _SPREAD):
        rounds.append(_round(group, times))
    for (work, _, op), found in zip(group, times, strict=True):
        yield Timing(
            name=op.name,
            kind=op.kind,
            phase=work.phase,
            grad=work.grad,
            dtype=op.dtype,
            channels_last=op.channels_last,
            sizes=op.sizes,
            flops=op.flops,
            bytes=op.bytes,
            fresh=op.fresh,
            seconds=statistics.median(found),
        )


def _round(group: list[tuple[Workload, tuple[Any, ...], Op]], times: list[list[float]]) -> float:
    """Runs every workload once; results of the forward are kept until all have run."""
    kept = []
    total = 0.0
    for (work, operands, _), found in zip(group, times, strict=True):
        start = time.perf_counter()
        result = work.run(*operands)
        seconds = time.perf_counter() - start
        if work.phase == "forward":
            kept.append(result)
        del result
        found.append(seconds)
        total += seconds
    return total


def _spread(rounds: list[float]) -> float:
    """Returns how far apart the middle half of the rounds is, as a share of the median."""
    low, middle, high = statistics.quantiles(rounds, n=4)
    return (high - low) / middle
