"""A trace of counters, and a meter that replays it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecograph.cost.meter import Counter, CounterMeter, Missing
from ecograph.cost.meter.growing import Unwrapped


class Trace:
    """Plays what counters showed over ten seconds. At `time`, they show what stands there."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.time = 0.0

    def raw(self, name: str) -> int:
        value: int = self.data[name][self.data["seconds"].index(self.time)]
        return value

    def meter(self, *names: str) -> CounterMeter:
        counters = []
        for name in names:
            if name.startswith("rapl"):
                rapl = Unwrapped(lambda name=name: self.raw(name) / 1e6, self.data["max_energy_range_uj"] / 1e6)  # type: ignore[misc]
                counters.append(Counter(name, "cpu", "rapl", 0.001, rapl, optional="dram" in name))
            else:
                counters.append(Counter(name, "cuda:0", "nvml", 0.1, lambda name=name: self.raw(name) / 1e3))  # type: ignore[misc]
        return CounterMeter(counters, {"cpu": Missing("no RAPL here")}, now=lambda: self.time)


@pytest.fixture
def trace() -> Trace:
    path = Path(__file__).parent / "traces" / "training.json"
    return Trace(json.loads(path.read_text(encoding="utf-8")))
