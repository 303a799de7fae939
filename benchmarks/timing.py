"""Interleaved timing: A, B, C, A, B, C, ... in one process, so that a machine that drifts drifts for all of them."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved(runs: Mapping[str, Callable[[], Callable[[], Any]]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Times several things in turn and returns the median of each, in milliseconds.

    Args:
        runs: name -> prepare; ``prepare()`` does what is not timed (a forward, say) and returns what is.
        rounds: counted rounds.
        warmup: rounds before them.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(warmup + rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:  # no one always comes after the same other
            timed = runs[name]()
            _wait()
            start = time.perf_counter()
            timed()
            _wait()
            if i >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    info: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
