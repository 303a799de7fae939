"""Makes a number that only grows of what hardware offers: a counter that starts again from 0, or a power."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Unwrapped:
    """A counter that starts again at 0 after some largest value, as RAPL's do, counted on past it.

    It must be read at least once per round, or a round is lost.

    Args:
        read: returns the counter, in joules.
        span: joules of one round.
    """

    def __init__(self, read: Callable[[], float], span: float) -> None:
        self._read = read
        self._span = span
        self._last = read()
        self._rounds = 0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Returns the joules, with those of all rounds."""
        with self._lock:
            value = self._read()
            if value < self._last:
                self._rounds += 1
            self._last = value
            return value + self._rounds * self._span


class Integrated:
    """The energy of a power that is read again and again, for GPUs that count no energy.

    Between two samples, the mean of both holds (trapezoidal rule).

    Args:
        read: returns the power, in watts.
        now: the time in seconds.
    """

    def __init__(self, read: Callable[[], float], *, now: Callable[[], float] = time.perf_counter) -> None:
        self._read = read
        self._now = now
        self._joules = 0.0
        self._last: tuple[float, float] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Takes a sample and returns the joules so far."""
        with self._lock:
            watts, now = self._read(), self._now()
            if self._last is not None:
                self._joules += (now - self._last[0]) * (watts + self._last[1]) / 2
            self._last = now, watts
            return self._joules
