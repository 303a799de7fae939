"""From timings to a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ecograph.cost.calibration import overhead, workloads
from ecograph.cost.calibration.timing import time_in_turn
from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.devices import stored
from ecograph.cost.devices.device import Device, Figure, Timing
from ecograph.cost.devices.shipped import generic_cpu

HERE = "calibrated here"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = (torch.contiguous_format, torch.channels_last)
#: Seconds of work before the first timing, so that the clock has settled to what it holds under load.
WARM_UP = 2.0


@dataclass(frozen=True)
class Progress:
    """How far a calibration is.

    Attributes:
        says: what is timed now.
        done: how many operations have been timed.
        total: how many there are.
    """

    says: str
    done: int
    total: int


def calibrate(
    dtypes: Sequence[str] = tuple(DTYPES), *, tell: Callable[[Progress], None] = lambda progress: None
) -> Device:
    """Measures the CPU with torch's present number of threads.

    It should have nothing else to do meanwhile. Operations take turns, so that each finds the caches as another left
    them; rounds of them are repeated until they agree.

    Args:
        dtypes: types of numbers to time products and all else with.
        tell: is told how far it is.

    Raises:
        ValueError: for a type that is not timed.
    """
    unknown = [each for each in dtypes if each not in DTYPES]
    if unknown:
        raise ValueError(f"dtype {unknown[0]!r} is not timed: give {' and '.join(DTYPES)}")
    threads = torch.get_num_threads()
    parts = [(f"{name}, {title}", works) for name in dtypes for title, works in _parts(DTYPES[name])]
    total = sum(len(works) for _, works in parts)
    timings: list[Timing] = []
    tell(Progress("warming up", 0, total))
    _warm_up()
    extra = overhead.time_overheads()
    new_memory = overhead.time_new_memory()
    for title, works in parts:
        tell(Progress(title, len(timings), total))
        for timing in time_in_turn(works):
            timings.append(timing)
            tell(Progress(title, len(timings), total))
    rough = generic_cpu(threads)
    return replace(
        rough,
        name=stored.name_of("cpu", threads),
        title=f"{stored.cpu_name()}, {threads} threads",
        flops={name: Figure(_highest_rate(timings, name), f"{HERE}: the fastest product") for name in dtypes},
        bandwidth=Figure(_highest_bandwidth(timings), f"{HERE}: the fastest copy of 16 MiB and more"),
        reached=Figure(1.0, "timings say it"),
        call=Figure(min(timing.seconds for timing in timings), f"{HERE}: the shortest operation"),
        overhead={phase: Figure(seconds, HERE) for phase, seconds in extra.items()},
        new_memory=Figure(new_memory, HERE),
        timings=tuple(timings),
    )


def _parts(dtype: torch.dtype) -> list[tuple[str, list[Workload]]]:
    products = [*workloads.matmuls(dtype), *workloads.batched_matmuls(dtype)]
    images = [
        (
            "convolutions" if format == torch.contiguous_format else "convolutions, channels_last",
            [work for conv in workloads.convs() for work in workloads.conv_workloads(conv, dtype, format)],
        )
        for format in FORMATS
    ]
    return [("matrix products", products), ("all else", list(workloads.others(dtype))), *images]


def _warm_up() -> None:
    operand = torch.randn(512, 512)
    end = time.perf_counter() + WARM_UP
    while time.perf_counter() < end:
        operand @ operand


def _highest_rate(timings: Sequence[Timing], dtype: str) -> float:
    return max(timing.flops / timing.seconds for timing in timings if timing.dtype == dtype)


def _highest_bandwidth(timings: Sequence[Timing]) -> float:
    copies = [timing for timing in timings if timing.kind in ("copy", "pointwise") and timing.bytes >= 2**24]
    return max(timing.bytes / timing.seconds for timing in copies)
