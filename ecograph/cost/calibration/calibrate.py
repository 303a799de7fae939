"""From timings to a device."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ecograph.allocator import keep_memory, keeps_memory
from ecograph.cost.calibration import overhead, workloads
from ecograph.cost.calibration.overhead import Overheads
from ecograph.cost.calibration.settle import REST, settle
from ecograph.cost.calibration.timing import Timed, time_in_turn, timing
from ecograph.cost.calibration.workloads import Workload
from ecograph.cost.devices import stored
from ecograph.cost.devices.device import Device, Figure, Timing
from ecograph.cost.devices.shipped import generic_cpu, in_words
from ecograph.cost.steps.op import Op

HERE = "calibrated here"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Seconds for timing all parts, with every type of numbers; making operands and a first run of each are in it.
SECONDS = 32.0
#: How often all is timed. A machine that is shared is slower for some seconds, now and then: what it runs then counts
#: as one of three, and the median leaves it out.
PASSES = 3
#: How often operations are repeated in a pass, at least.
ROUNDS = 2


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


@dataclass(frozen=True)
class Part:
    """Operations that are timed after a rest.

    Attributes:
        title: what they are.
        works: the operations.
        share: of the time for a type of numbers.
    """

    title: str
    works: Sequence[Workload]
    share: float


def calibrate(
    dtypes: Sequence[str] = tuple(DTYPES),
    *,
    quick: bool = False,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Device:
    """Measures the CPU with torch's present number of threads, in less than two minutes.

    It should have nothing else to do meanwhile. Before each part it works until its clock has settled, at first after
    a rest. Operations take turns, so that each finds the caches as another left them; rounds of them are repeated until
    they agree, or the time for them is over: the device's ``spread`` says how far they lay apart. But for what takes
    long, all is timed three times, with half a minute between, and what operations cost beside their own time before
    every other part. The process keeps its memory from then on, as by ``ecograph.keep_memory()``; what it takes to get
    new memory is measured before.

    Args:
        dtypes: types of numbers to time products and all else with: ``"float32"``, ``"bfloat16"``.
        quick: time all once. Takes half as long or less, and says less about how sure the figures are.
        tell: is told how far it is.

    Raises:
        ValueError: for a type that is not timed, and for none.
    """
    for each in dtypes:
        if each not in DTYPES:
            raise ValueError(f"dtype {each!r} is not timed: give {' or '.join(DTYPES)}")
    if not dtypes:
        raise ValueError(f"dtypes is empty: give {' or '.join(DTYPES)}")
    threads = torch.get_num_threads()
    parts = [(name, part) for name in dict.fromkeys(dtypes) for part in parts_of(DTYPES[name])]
    total = sum(len(part.works) for _, part in parts)
    passes = 1 if quick else PASSES
    found: dict[Workload, list[Timed]] = {}
    spreads: list[float] = []
    paces: list[float] = []
    overheads: list[Overheads] = []

    def known(work: Workload) -> Op | None:
        return found[work][0].op if work in found else None

    tell(Progress("memory", 0, passes * total))
    settle(0.0)
    rough = generic_cpu(threads)
    # It is known beside all else, so that no timing has a share in it that depends on how the operands happen to lie.
    new_memory = rough.new_memory if keeps_memory() else Figure(overhead.time_new_memory(), HERE)
    keep_memory()
    done = 0
    for number in range(passes):
        for dtype, part in parts:
            title = f"{part.title}, {dtype}"
            tell(Progress(title, done, passes * total))
            paces.append(settle(REST if number == 0 and not quick else 0.0))
            if quick or len(paces) % 2:
                overheads.append(overhead.time_overheads())
            seconds = SECONDS / len(DTYPES) / PASSES * part.share
            before = done
            works = part.works if number == 0 else [each for each in part.works if _again(found.get(each))]
            for turns in time_in_turn(works, seconds, least=ROUNDS, known=known):
                for timed in turns.timed:
                    found.setdefault(timed.work, []).append(timed)
                spreads.append(turns.spread)
                done += len(turns.timed)
                tell(Progress(title, done, passes * total))
            done = before + len(part.works)
    tell(Progress("done", passes * total, passes * total))
    beside = overhead.middle(overheads)
    timings = [timing(each, beside.calling(each[0].op.kind)) for each in found.values()]
    return replace(
        rough,
        name=stored.cpu(threads),
        title=f"{stored.cpu_name()}, {in_words(threads)}",
        flops=_rates(timings, rough.flops),
        bandwidth=Figure(_highest_bandwidth(timings), f"{HERE}: the fastest copy or addition of 16 MiB and more"),
        call=Figure(min(each.seconds for each in timings), f"{HERE}: the shortest operation"),
        overhead={of: Figure(value, HERE) for of, value in beside.beside.items()},
        swept={of: Figure(value, HERE) for of, value in beside.swept.items()},
        new_memory=new_memory,
        timings=tuple(timings),
        # Within parts, as rounds show it, or between them, as the pace of one product does.
        spread=max(statistics.median(spreads), apart(paces)),
    )


def _again(found: list[Timed] | None) -> bool:
    """Whether a workload was timed before, and takes so little that it is timed again."""
    return found is not None and found[0].short


def parts_of(dtype: torch.dtype) -> list[Part]:
    """Returns all that is timed with a type of numbers."""
    contiguous, last = torch.contiguous_format, torch.channels_last
    return [
        Part("matrix products", [*workloads.matmuls(dtype), *workloads.batched_matmuls(dtype)], 0.15),
        Part("all that is no product", list(workloads.others(dtype)), 0.15),
        Part("convolutions", list(workloads.all_convs(dtype, contiguous)), 0.4),
        Part("convolutions, channels_last", list(workloads.all_convs(dtype, last)), 0.3),
    ]


def apart(paces: Sequence[float]) -> float:
    """Returns how far durations of the same work lie apart, as a share of their median: the middle half of them."""
    if len(paces) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(paces, n=4, method="inclusive")
    return (high - low) / middle


def _rates(timings: Sequence[Timing], rough: Mapping[str, Figure]) -> dict[str, Figure]:
    """Returns the highest rate for each type of numbers; of those that were not timed, from one that was."""
    found: dict[str, float] = {}
    for each in timings:
        if each.flops:
            found[each.dtype] = max(found.get(each.dtype, 0.0), each.flops / each.seconds)
    known = "float32" if "float32" in found else next(iter(found))
    figures = {name: Figure(rate, f"{HERE}: the fastest product") for name, rate in found.items()}
    for name, figure in rough.items():
        ratio = figure.value / rough[known].value
        times = "" if ratio == 1 else f"{ratio:g} times "
        figures.setdefault(name, Figure(found[known] * ratio, f"assumed: {times}as fast as {known}"))
    return figures


def _highest_bandwidth(timings: Sequence[Timing]) -> float:
    moving = [each for each in timings if each.kind in ("copy", "pointwise")]
    large = [each for each in moving if each.bytes >= 2**24] or moving
    return max(each.bytes / each.seconds for each in large)
