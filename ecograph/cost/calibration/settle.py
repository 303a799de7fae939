"""Bringing a processor into the state in which it trains: warm, at the clock that it holds under load."""

from __future__ import annotations

import statistics
import time

import torch

#: Seconds of rest before each part, so that no part is timed on what the one before it has heated up.
REST = 0.5
#: Seconds of work between two looks at how fast it goes.
WINDOW = 0.15
#: Windows of work, at least and at most.
LEAST, MOST = 2, 5
#: Two windows agree to this share when the clock has settled.
AGREE = 0.02


def settle(rest: float = REST) -> float:
    """Rests, then works until the clock has settled, and returns the seconds that a fixed product takes then.

    Args:
        rest: seconds.
    """
    time.sleep(rest)
    operand = torch.randn(384, 384)
    windows: list[float] = []
    while len(windows) < MOST:
        windows.append(_window(operand))
        if len(windows) >= LEAST and abs(windows[-1] / windows[-2] - 1) < AGREE:
            break
    return windows[-1]


def _window(operand: torch.Tensor) -> float:
    times: list[float] = []
    end = time.perf_counter() + WINDOW
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        operand @ operand
        times.append(time.perf_counter() - start)
    return statistics.median(times)
