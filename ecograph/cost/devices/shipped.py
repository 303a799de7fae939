"""Devices that are known from their datasheets: the file `profiles.toml`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ecograph.cost.devices.device import Device, Figure
from ecograph.cost.steps.kinds import FUNCTION, PYTHON
from ecograph.cost.steps.op import PHASES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GENERIC = "generic-cpu"

#: Shares of the power above idle that go into arithmetic and into moving data, with both at their most.
ARITHMETIC, MEMORY = 0.6, 0.4
#: glibc gives larger allocations back to the system as soon as they are freed.
LARGEST_REUSED = Figure(2.0**25, "glibc: largest value of M_MMAP_THRESHOLD, which it adapts to what is allocated")
ALL_REUSED = Figure(math.inf, "the caching allocator keeps what was freed")


@cache
def tables() -> dict[str, Any]:
    """Returns the file."""
    return tomllib.loads((files("ecograph.cost.devices") / "profiles.toml").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """Returns the names of all devices in the file."""
    return (GENERIC, *tables()["devices"])


def gpu(name: str) -> Device:
    """Returns a GPU by its name in the file."""
    table = {**tables()["assumed"], **tables()["devices"][name]}
    flops = {kind: _figure(each) for kind, each in table["flops"].items()}
    watts, idle = _figure(table["watts"]), _figure(table["idle_share"])
    bandwidth = _figure(table["bandwidth"])
    above = watts.value * (1 - idle.value)
    energy = f"assumed: of what {watts.value:g} W leave above idle"
    return Device(
        name=name,
        title=table["title"],
        type="cuda",
        flops=flops,
        bandwidth=bandwidth,
        reached=_figure(table["reached"]),
        call=_figure(table["call"]),
        overhead={},
        swept={},
        new_memory=_figure(table["new_memory"]),
        reused=ALL_REUSED,
        watts_static=Figure(watts.value * idle.value, idle.source),
        joules_per_flop={
            kind: Figure(ARITHMETIC * above / each.value, f"{energy}, {ARITHMETIC:.0%} at full rate")
            for kind, each in flops.items()
        },
        joules_per_byte=Figure(MEMORY * above / bandwidth.value, f"{energy}, {MEMORY:.0%} at full bandwidth"),
    )


def gpu_like(title: str) -> Device | None:
    """Returns the GPU that a driver calls ``title``, such as ``"Tesla V100-SXM2-16GB"``; None for one not in the file.

    Boards of one name differ, in memory and in watts: the title of the device says which one its figures are of.
    """
    words = f" {title.replace('-', ' ')} "
    for name, table in tables()["devices"].items():
        unlike = table.get("unlike")
        if f" {table['matches']} " in words and (unlike is None or f" {unlike} " not in words):
            return gpu(name)
    return None


def generic_cpu(threads: int) -> Device:
    """Returns a CPU that nobody has measured, of as many cores as there are threads."""
    table = tables()[GENERIC]
    times = f" x {in_words(threads)}" if threads > 1 else ""

    def all_cores(entry: Mapping[str, Any]) -> Figure:
        return Figure(threads * float(entry["value"]), entry["source"] + times)

    overhead = _figure(table["overhead"])
    return Device(
        name=GENERIC,
        title=f"{table['title']}, {in_words(threads)}",
        type="cpu",
        flops={kind: all_cores(each) for kind, each in table["flops"].items()},
        bandwidth=all_cores(table["bandwidth"]),
        reached=_figure(table["reached"]),
        call=_figure(table["call"]),
        overhead={**dict.fromkeys(PHASES, overhead), **{kind: _figure(table[kind]) for kind in (FUNCTION, PYTHON)}},
        swept={kind: _figure(each) for kind, each in table["swept"].items()},
        new_memory=_figure(table["new_memory"]),
        reused=LARGEST_REUSED,
        watts_static=all_cores(table["watts"]),
        joules_per_flop={"float32": Figure(0.0, "in the power of a busy core")},
        joules_per_byte=Figure(0.0, "in the power of a busy core"),
        threads=threads,
    )


def in_words(threads: int) -> str:
    """Returns ``"1 thread"`` or ``"2 threads"``."""
    return f"{threads} thread{'s' if threads != 1 else ''}"


def _figure(entry: Mapping[str, Any]) -> Figure:
    return Figure(float(entry["value"]), entry["source"])
