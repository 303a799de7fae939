"""What a device does with time and energy: figures, each with its source, and timings taken on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: A larger spread of timings says that the machine had something else to do meanwhile, or changed its clock.
DISTURBED = 0.1


class Figure(NamedTuple):
    """A number and how it is known.

    Attributes:
        value: the number.
        source: address of a datasheet, ``"assumed: ..."`` or ``"calibrated here"``.
    """

    value: float
    source: str


@dataclass(frozen=True)
class Timing:
    """How long one operation took.

    Attributes:
        name: torch's, such as ``"aten.gelu"``.
        kind: what kind of work it is.
        phase: ``"forward"``, where what it writes is kept, or ``"backward"``, where it is soon freed.
        grad: which gradient a product computes, or "".
        dtype: of what it computes with.
        channels_last: whether on images in this format.
        sizes: of a product; none for all else.
        flops: of a product.
        bytes: that it reads and writes.
        strided: whether a copy puts elements in another order in memory.
        seconds: of the operation alone, the call included.
    """

    name: str
    kind: str
    phase: str
    grad: str
    dtype: str
    channels_last: bool
    sizes: tuple[int, ...]
    flops: int
    bytes: int
    strided: bool
    seconds: float


@dataclass(frozen=True)
class Device:
    """A device that training runs on.

    Attributes:
        name: by which it is asked for.
        title: for people.
        type: torch's: ``"cpu"``, ``"cuda"``.
        flops: type of number -> the most floating-point operations per second in products. ``"float32"`` is always
            there; ``"tf32"`` is what a GPU may compute float32 in.
        bandwidth: the most bytes per second to and from memory.
        reached: share of the most that a product of good size reaches, where no timing says it.
        call: seconds that an operation takes at least, however small it is.
        overhead: phase of a step -> seconds that each operation takes beside its own time, views too: in the forward
            what recording for autograd takes, in the backward what autograd takes; ``"function"``: what an
            ``autograd.Function`` written in Python takes, forward and backward together; ``"python"``: what each call
            of a Python function takes beside.
        swept: ``"function"``, ``"python"``, ``"view"`` and ``"call"``, which is any other operation -> seconds that
            calling it takes longer where others have filled the processor's caches.
        new_memory: seconds per byte that writing to memory takes longer when it has just been asked of the system.
        reused: bytes of the largest allocation whose memory is reused after it was freed, and not given back.
        watts_static: drawn whatever it does.
        joules_per_flop: type of number -> energy of an operation, beside the static power.
        joules_per_byte: energy of moving a byte, beside the static power.
        timings: taken on it; none for a device that is known from its datasheet.
        threads: of torch when they were taken; 0 where that has no meaning.
        spread: how far rounds of timings lay apart: the middle half of them, as a share of their median.
    """

    name: str
    title: str
    type: str
    flops: Mapping[str, Figure]
    bandwidth: Figure
    reached: Figure
    call: Figure
    overhead: Mapping[str, Figure]
    swept: Mapping[str, Figure]
    new_memory: Figure
    reused: Figure
    watts_static: Figure
    joules_per_flop: Mapping[str, Figure]
    joules_per_byte: Figure
    timings: tuple[Timing, ...] = field(default=(), repr=False)
    threads: int = 0
    spread: float = 0.0

    @property
    def calibrated(self) -> bool:
        """Whether it was timed, and is not known from a datasheet alone."""
        return bool(self.timings)

    @property
    def source(self) -> str:
        """How figures that are computed from it are known."""
        return f"modelled:{self.name}, {'calibrated here' if self.calibrated else 'from datasheets'}"
