from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import torch
from rich.console import Console

import ecograph
from ecograph.cost.energy import WATTS_PER_CORE
from ecograph.cost.meter import CounterMeter, Missing, NoMeter, Part, Used, Window


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that this process uses, and that no work is on."""
    window = "ecograph.cost.meter.window"
    monkeypatch.setattr(f"{window}.in_use", lambda: (torch.device("cuda:0"),))


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_without_a_meter_the_figure_is_modelled_and_says_so() -> None:
    with ecograph.measure(meter=NoMeter("buy one")) as used:
        busy(0.05)
    assert used.seconds >= 0.05 and used.cpu_seconds >= 0.05
    assert used.joules == pytest.approx(WATTS_PER_CORE * used.cpu_seconds)
    assert used.source == "modelled:7 W per busy core" and used.why == "buy one"
    assert [part.domain for part in used.parts] == ["cpu"]
    assert used.seconds == used.seconds, "the window is closed"


def test_with_a_meter_it_is_measured(trace: Any) -> None:
    with ecograph.measure(meter=trace.meter("rapl:package-0", "rapl:dram-0"), label="training") as used:
        trace.time = 10.0
    assert used.joules == pytest.approx(10 * (95.3 + 11.7))
    assert (used.source, used.why) == ("measured:rapl", "")
    assert str(used).startswith("training: 1070 J in ") and str(used).endswith(" s, measured:rapl")


def test_a_gpu_is_measured_and_the_cpu_modelled(trace: Any, gpu: None) -> None:
    with ecograph.measure(meter=trace.meter("nvml:0")) as used:
        busy(0.02)
        trace.time = 2.0
    cpu, nvml = used.parts
    assert (cpu.domain, cpu.source, cpu.why) == ("cpu", "modelled:7 W per busy core", "no RAPL here")
    assert nvml.joules == pytest.approx(496) and nvml.source == "measured:nvml"
    assert cpu.joules is not None and used.joules == pytest.approx(496 + cpu.joules)
    assert used.source == "modelled:7 W per busy core + measured:nvml"
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(used)
    assert "no RAPL here" in (text := console.export_text()) and "496 J" in text


def test_a_gpu_that_stalled_leaves_the_sum_unknown(trace: Any, gpu: None) -> None:
    trace.time = 3.0
    with ecograph.measure(meter=trace.meter("rapl:package-0", "nvml:0")) as used:
        trace.time = 4.0
    assert (used.joules, used.source) == (None, "none")  # the CPU's 95 J are not what the training took
    assert used.parts[0].joules == pytest.approx(95.3)
    assert used.why == "nvml:0 did not advance in 1 s"
    assert str(used).startswith("unknown energy in ") and "did not advance" in str(used)


def test_devices_name_what_counts(trace: Any, gpu: None) -> None:
    with ecograph.measure(meter=trace.meter("rapl:package-0", "nvml:0"), devices="cpu") as used:
        trace.time = 2.0
    assert [part.domain for part in used.parts] == ["rapl:package-0"]
    with ecograph.measure(meter=trace.meter("nvml:0"), devices=["cuda:0", torch.device("cuda:1")]) as used:
        trace.time = 4.0
    assert [part.domain for part in used.parts] == ["cpu", "nvml:0", "cuda:1"]
    assert used.parts[2].why == "cuda:1 has no energy counter that can be read"
    for wrong in ("gpu", ["cuda:x"], 3):
        with pytest.raises(ValueError, match='devices=.*give "cpu", "cuda:0"'):
            ecograph.measure(devices=wrong)  # type: ignore[arg-type]


def test_a_stalled_cpu_counter_falls_back_to_the_model(trace: Any) -> None:
    with ecograph.measure(meter=trace.meter("rapl:package-0")) as used:
        busy(0.01)  # and no time passes in the trace
    assert used.source.startswith("modelled:") and "too short for rapl:package-0" in used.why


def test_memory_without_a_figure_is_left_out_and_said(trace: Any) -> None:
    trace.data["rapl:dram-0"] = [7] * len(trace.data["seconds"])
    with ecograph.measure(meter=trace.meter("rapl:package-0", "rapl:dram-0")) as used:
        trace.time = 2.0
    assert used.joules == pytest.approx(2 * 95.3) and used.source == "measured:rapl"
    assert used.why == "rapl:dram-0 did not advance in 2 s"


def test_what_another_process_counts_is_not_counted_again() -> None:
    meter = CounterMeter([], {"cpu": Missing("rank 0 reads it", elsewhere=True)})
    with ecograph.measure(meter=meter) as used:
        busy(0.01)
    assert used.parts == (Part("cpu", None, "none", "rank 0 reads it", needed=False),)


def test_a_block_that_fails_has_figures() -> None:
    with pytest.raises(ZeroDivisionError), ecograph.measure(meter=NoMeter("")) as used:
        busy(0.01)
        raise ZeroDivisionError
    assert used.joules is not None and used.joules >= 0.07


def test_figures_within_the_block_are_those_so_far(trace: Any) -> None:
    with ecograph.measure(meter=trace.meter("rapl:package-0")) as used:
        trace.time = 1.0
        assert used.joules == pytest.approx(95.3)
        with ecograph.measure(meter=trace.meter("rapl:package-0")) as inner:
            trace.time = 2.0
    trace.time = 10.0
    assert used.joules == pytest.approx(2 * 95.3)
    assert inner.joules == pytest.approx(95.3)
    assert "open" not in repr(used)


def test_as_a_decorator_each_call_is_measured() -> None:
    seen: list[Used] = []

    @ecograph.measure(meter=NoMeter(""), label="call", report=seen.append)
    def work(fail: bool = False) -> int:
        busy(0.01)
        if fail:
            raise ValueError
        return 3

    assert work() == 3
    with pytest.raises(ValueError):
        work(fail=True)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(seen) == 4 and all(each.label == "call" and each.joules for each in seen)


def test_to_dict_survives_json(trace: Any) -> None:
    with ecograph.measure(meter=trace.meter("rapl:package-0")) as used:
        trace.time = 2.0
    data = used.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["joules"] == used.joules and data["energy_source"] == "measured:rapl"


def test_zero_is_never_a_figure() -> None:
    assert Used(1.0, 0.0).joules is None
    assert Used(1.0, 0.0, (Part("cpu", None, "none"),)).source == "none"


def test_a_meter_must_be_one() -> None:
    with pytest.raises(ValueError, match="meter=.* is no meter"):
        Window(meter="rapl")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("joules", "text"),
    [(0.5234, "0.523 J"), (312, "312 J"), (9999, "9999 J"), (12500, "12.5 kJ"), (1.25e6, "1.25 MJ"), (4e9, "4000 MJ")],
)
def test_text(joules: float, text: str) -> None:
    assert str(Used(7200.0, 1.0, (Part("cpu", joules, "measured:rapl"),))) == f"{text} in 7200 s, measured:rapl"


def test_importing_ecograph_imports_no_meter() -> None:
    code = "import sys, ecograph; print([name for name in sys.modules if 'zeus' in name or 'cost.meter' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
