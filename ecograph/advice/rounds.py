"""Timing settings in turn, round by round, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ecograph.advice.trial import Trial
from ecograph.cost.energy import Energy
from ecograph.cost.meter import Part, Window
from ecograph.cost.meter.used import total

#: Seconds of a block of steps that is timed at once. A GPU's counter is updated every 0.1 s and needs ten updates.
BLOCK = {"cpu": 0.2, "cuda": 1.2}
FEWEST_ROUNDS = 3
MOST_ROUNDS = 40


@dataclass
class Timings:
    """What the rounds said of a trial; lists have an element per round.

    Attributes:
        seconds: of a step, on average over the rates of its passes.
        joules: of a step, likewise; only of rounds that have a figure.
        sources: of the joules.
    """

    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)

    @property
    def energy(self) -> Energy:
        """Of a step; unknown where a block had no figure."""
        if not self.joules or len(self.joules) < len(self.seconds):
            return Energy(None, "none")
        return Energy(statistics.median(self.joules), " + ".join(sorted(self.sources)))


def interleaved(
    trials: Sequence[Trial], seconds: float, *, tick: Callable[[float], None] = lambda share: None
) -> list[Timings]:
    """Takes blocks of steps of each trial in turn until the time is up.

    Each round begins with another trial, so that none always comes after the same other.

    Args:
        trials: to be compared; each took its first steps already.
        seconds: to spend, about; there are ``FEWEST_ROUNDS`` rounds at least.
        tick: told the share that is done.
    """
    found = [Timings() for _ in trials]
    counts = [_steps_in_a_block(trial) for trial in trials]
    started = time.perf_counter()
    for number in range(MOST_ROUNDS):
        for place in range(len(trials)):
            at = (number + place) % len(trials)
            _block(trials[at], counts[at], found[at])
        spent = time.perf_counter() - started
        tick(
            min(
                1.0,
                max(spent / seconds, (number + 1) / MOST_ROUNDS) if number + 1 >= FEWEST_ROUNDS else spent / seconds,
            )
        )
        if number + 1 >= FEWEST_ROUNDS and spent * (number + 2) / (number + 1) > seconds:
            break
    tick(1.0)
    return found


def _steps_in_a_block(trial: Trial) -> int:
    """Returns how many steps take about as long as a block; also warms up."""
    with trial.switched():
        trial.step()
        started = time.perf_counter()
        trial.step()
        _wait(trial)
        taken = time.perf_counter() - started
    block = BLOCK.get(trial.subject.device.type, 1.0)
    return max(1, min(1000, math.ceil(block / max(taken, 1e-6))))


def _block(trial: Trial, steps: int, into: Timings) -> None:
    seconds, parts = 0.0, []
    with trial.switched():
        for rates, share in trial.mix:
            trial.set_rates(rates)
            window = Window()
            for _ in range(steps):
                trial.step()
            used = window.finish()
            seconds += share * used.seconds / steps
            energy = used.energy
            joules = None if energy.joules is None else share * energy.joules / steps
            parts.append(Part("block", joules, energy.source))
    energy = total(parts)
    into.seconds.append(seconds)
    if energy.joules is not None:
        into.joules.append(energy.joules)
        into.sources |= set(energy.source.split(" + "))


def _wait(trial: Trial) -> None:
    from ecograph.cost.meter.devices import wait_for

    wait_for([trial.subject.device])


def ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Returns the median of the ratios of two trials round by round, and how far apart the middle half of them lie."""
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    if len(ratios) < 2:
        return ratios[0], 0.0
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), high - low
