from __future__ import annotations

import gc
import time
from typing import Any

import pytest

from ecograph.cost.meter import Counter, CounterMeter, Meter, NoMeter, Reading
from ecograph.cost.meter.growing import Integrated, Unwrapped


def readings(meter: CounterMeter, start: Any) -> dict[str, Reading]:
    return {each.domain: each for each in meter.since(start)}


def test_the_trace(trace: Any) -> None:
    meter = trace.meter("rapl:package-0", "rapl:dram-0", "nvml:0")
    assert isinstance(meter, Meter) and isinstance(NoMeter("none"), Meter)
    assert meter.domains == ("rapl:package-0", "rapl:dram-0", "nvml:0")
    start = meter.start()
    trace.time = 1.0
    assert readings(meter, start)["rapl:package-0"].joules == pytest.approx(95.3)
    trace.time = 2.0  # the counter of the package has begun anew
    found = readings(meter, start)
    assert trace.raw("rapl:package-0") < 50e6
    assert found["rapl:package-0"].joules == pytest.approx(2 * 95.3)
    assert found["rapl:dram-0"].joules == pytest.approx(2 * 11.7)
    assert found["nvml:0"].joules == pytest.approx(2 * 248)


def test_a_counter_that_stands_still_has_measured_nothing(trace: Any) -> None:
    meter = trace.meter("rapl:package-0", "nvml:0")
    trace.time = 3.0
    start = meter.start()
    trace.time = 4.0
    found = readings(meter, start)
    assert found["nvml:0"].joules is None and found["nvml:0"].why == "nvml:0 did not advance in 1 s"
    assert found["rapl:package-0"].joules == pytest.approx(95.3)


def test_a_window_of_a_few_updates_is_too_short(trace: Any) -> None:
    meter = trace.meter("rapl:package-0", "nvml:0")
    start = meter.start()
    trace.time = 0.5
    found = readings(meter, start)
    assert found["rapl:package-0"].joules == pytest.approx(95.3 / 2)  # 500 updates
    assert found["nvml:0"].joules is None and "too short for nvml:0" in found["nvml:0"].why
    assert "measure 1 s or more" in found["nvml:0"].why


def test_windows_are_nested_and_overlap(trace: Any) -> None:
    meter = trace.meter("rapl:package-0")
    outer = meter.start()
    trace.time = 1.0
    inner = meter.start()
    trace.time = 2.0
    assert readings(meter, inner)["rapl:package-0"].joules == pytest.approx(95.3)
    trace.time = 10.0
    assert readings(meter, outer)["rapl:package-0"].joules == pytest.approx(953)
    assert readings(meter, inner)["rapl:package-0"].joules == pytest.approx(9 * 95.3)


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_counter_that_fails_says_so(when: str) -> None:
    broken = when == "start"

    def read() -> float:
        if broken:
            raise OSError("GPU is lost")
        return 1.0

    meter = CounterMeter([Counter("nvml:0", "cuda:0", "nvml", 0.0, read)])
    start = meter.start()
    broken = not broken
    assert meter.since(start) == [
        Reading("nvml:0", "cuda:0", "nvml", None, "nvml:0 cannot be read (OSError: GPU is lost)")
    ]


def test_a_counter_that_wraps_many_times_is_read_in_time() -> None:
    began = time.perf_counter()
    raw = lambda: (1000 * (time.perf_counter() - began)) % 100  # noqa: E731 - 1000 W, a round in 0.1 s
    counter = Counter("rapl:package-0", "cpu", "rapl", 0.001, Unwrapped(raw, 100), poll_every=0.01)
    meter = CounterMeter([counter])
    start = meter.start()
    first = time.perf_counter()
    time.sleep(0.35)
    joules = meter.since(start)[0].joules
    expected = 1000 * (time.perf_counter() - first)
    assert joules == pytest.approx(expected, abs=20)
    thread = meter._poller
    assert thread is not None and thread.daemon
    del start
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()  # nobody measures: nothing is read
    again = meter.start()
    assert meter._poller is not None and meter._poller.is_alive() and again


def test_power_is_integrated() -> None:
    now, watts = 0.0, 100.0
    energy = Integrated(lambda: watts, now=lambda: now)
    assert energy() == 0
    now = 1.0
    assert energy() == 100
    now, watts = 2.0, 200.0
    assert energy() == 250
