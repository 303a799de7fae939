from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ecograph.cost.devices import Device, Figure
from ecograph.cost.devices.shipped import generic_cpu


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "devices"


@pytest.fixture
def round_cpu() -> Device:
    """A CPU of round numbers: 1 GFLOP/s, 1 GB/s, 1 µs a call, 10 W."""

    def of(value: float) -> Figure:
        return Figure(value, "assumed: for tests")

    return replace(
        generic_cpu(1),
        flops={"float32": of(1e9), "bfloat16": of(4e9)},
        bandwidth=of(1e9),
        reached=of(0.5),
        call=of(1e-6),
        overhead={"forward": of(1e-6), "recomputed": of(1e-6), "backward": of(2e-6), "optimizer": of(0.0)},
        swept={},
        new_memory=of(1e-9),
        reused=of(1000),
        watts_static=of(10.0),
        joules_per_flop={"float32": of(1e-9)},
        joules_per_byte=of(1e-9),
    )
