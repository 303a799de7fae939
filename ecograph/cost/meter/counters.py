"""Counters of joules, and a meter made of them: it takes the difference between two readings, or says why it cannot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakSet, ref

from ecograph.cost.meter.meter import Missing, Reading

#: A window must span so many updates of a counter. A counter stands still between two updates, so that a window may
#: have up to one update too many or too few in it: with 10 of them, a tenth of its energy.
FEWEST_UPDATES = 10


@dataclass(frozen=True, eq=False)
class Counter:
    """An amount of energy that only grows.

    Attributes:
        domain: what is counted, such as "nvml:0", "rapl:package-0" or "rapl:dram-0".
        device: whose energy that is: "cpu", "cuda:0", "mps"; or the UUID of an NVIDIA GPU, "GPU-...".
        source: who counts, for the label ``measured:<source>``.
        resolution: time between two updates, in seconds.
        read: returns the joules so far, from any start.
        optional: the figure of the device is good without it: memory, besides the processor.
        poll_every: seconds within which ``read`` must be called again, to miss nothing; None if it need not be.
    """

    domain: str
    device: str
    source: str
    resolution: float
    read: Callable[[], float]
    optional: bool = False
    poll_every: float | None = None


class Start:
    """What the counters stood at when a window began: the number, or the reason why there is none."""

    def __init__(self, time: float, joules: Sequence[float | str]) -> None:
        self.time = time
        self.joules = joules


class CounterMeter:
    """Reads counters at both ends of a window. Any number of windows may be open, in any order.

    Args:
        counters: all that this machine has.
        missing: why a kind of device, "cpu", "cuda" or "mps", has none.
        now: the time in seconds.
    """

    def __init__(
        self,
        counters: Iterable[Counter],
        missing: Mapping[str, Missing] | None = None,
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counters = tuple(counters)
        self._missing = dict(missing or {})
        self._now = now
        self._open: WeakSet[Start] = WeakSet()
        self._poller: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def domains(self) -> tuple[str, ...]:
        """What is counted."""
        return tuple(each.domain for each in self._counters)

    def missing(self, device: str) -> Missing:
        """Returns why a device has no counter."""
        kind = device.partition(":")[0]
        return self._missing.get(kind) or Missing(f"{device} has no energy counter that can be read")

    def start(self) -> Start:
        """Begins a window, which ends when nobody holds what is returned."""
        start = Start(self._now(), [_read(each) for each in self._counters])
        with self._lock:
            self._open.add(start)
            self._poll()
        return start

    def since(self, start: Start) -> list[Reading]:
        """Returns what every counter has counted since a window began. The window goes on."""
        seconds = self._now() - start.time
        return [
            _reading(counter, before, _read(counter), seconds)
            for counter, before in zip(self._counters, start.joules, strict=True)
        ]

    def _poll(self) -> None:
        """Starts the thread that reads counters in time, unless it runs. A fork leaves it behind: then anew."""
        pauses = [each.poll_every for each in self._counters if each.poll_every is not None]
        if pauses and (self._poller is None or not self._poller.is_alive()):
            # A thread, because the process that Zeus starts for this would import the user's script again and train.
            self._poller = threading.Thread(
                target=_keep_reading, args=(ref(self), min(pauses)), name="ecograph energy meter", daemon=True
            )
            self._poller.start()

    def _read_in_time(self) -> bool:
        """Reads what must be read now and then; says whether to go on."""
        with self._lock:
            if not self._open:
                self._poller = None
                return False
        for each in self._counters:
            if each.poll_every is not None:
                _read(each)
        return True


def _keep_reading(meter: ref[CounterMeter], pause: float) -> None:
    """Runs in a thread of its own until the last window is closed or the meter is gone."""
    while True:
        time.sleep(pause)
        alive = meter()
        if alive is None or not alive._read_in_time():
            return
        del alive  # nobody is kept by his own thread


def _read(counter: Counter) -> float | str:
    try:
        return counter.read()
    except Exception as error:  # a driver may fail in any way; training goes on, and the reading says why it has none
        return f"{counter.domain} cannot be read ({type(error).__name__}: {error})"


def _reading(counter: Counter, before: float | str, after: float | str, seconds: float) -> Reading:
    shortest = FEWEST_UPDATES * counter.resolution
    joules, why = None, ""
    if isinstance(before, str) or isinstance(after, str):
        why = before if isinstance(before, str) else str(after)
    elif seconds < shortest:
        why = (
            f"{seconds:.2g} s is too short for {counter.domain}, which is updated every {counter.resolution:g} s: "
            f"measure {shortest:g} s or more"
        )
    elif after <= before:
        why = f"{counter.domain} did not advance in {seconds:.3g} s"
    else:
        joules = after - before
    return Reading(counter.domain, counter.device, counter.source, joules, why, counter.optional)
