"""What is read of Zeus: the real package wherever it needs no hardware, and fakes of its devices where it does."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ecograph.cost.meter import NoMeter, find_meter, zeus_meter

SPAN = 262143328850  # microjoules, as on a Xeon


@pytest.fixture(autouse=True)
def looked_for_anew() -> Iterator[None]:
    zeus_meter._find.cache_clear()
    yield
    zeus_meter._find.cache_clear()


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of RAPL as Linux shows it: two packages, one with memory, and the whole board."""
    module = pytest.importorskip("zeus.device.cpu.rapl")
    for folder, name in (
        ("intel-rapl:0", "package-0"), ("intel-rapl:0/intel-rapl:0:0", "core"), ("intel-rapl:0/intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-1"), ("intel-rapl:2", "psys"),
    ):  # fmt: skip
        place = tmp_path / folder
        place.mkdir()
        (place / "name").write_text(f"{name}\n")
        (place / "energy_uj").write_text("1000000\n")
        (place / "max_energy_range_uj").write_text(f"{SPAN}\n")
    monkeypatch.setattr(module, "RAPL_DIR", str(tmp_path))
    monkeypatch.setattr(zeus_meter, "RAPL", (str(tmp_path),))
    monkeypatch.setattr("zeus.device.cpu._cpus", None)
    module.rapl_is_available.cache_clear()
    yield tmp_path
    module.rapl_is_available.cache_clear()


@pytest.fixture(autouse=True)
def no_zeusd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZEUSD_SOCK_PATH", "ZEUSD_HOST_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_rapl_is_read_through_zeus(rapl: Path) -> None:
    meter = find_meter()
    assert [each for each in meter.domains if each.startswith("rapl")] == [
        "rapl:package-0", "rapl:dram-0", "rapl:package-1",
    ]  # fmt: skip
    start = meter.start()
    time.sleep(0.02)
    (rapl / "intel-rapl:0/energy_uj").write_text("3500000")
    (rapl / "intel-rapl:0/intel-rapl:0:1/energy_uj").write_text("1250000")
    (rapl / "intel-rapl:1/energy_uj").write_text("250000")  # it has begun anew
    found = {each.domain: each.joules for each in meter.since(start)}
    assert found["rapl:package-0"] == pytest.approx(2.5)
    assert found["rapl:dram-0"] == pytest.approx(0.25)
    assert found["rapl:package-1"] == pytest.approx(SPAN / 1e6 - 0.75)
    assert multiprocessing.active_children() == []  # as Zeus's own monitor would start
    assert find_meter() is meter


def test_rapl_that_may_not_be_read(rapl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeus.device.cpu import common

    def denied() -> None:
        raise common.ZeusCPUNoPermissionError("Can't read file due to permission error")

    monkeypatch.setattr("zeus.device.get_cpus", denied)
    why = find_meter().missing("cpu").why
    assert "sudo chmod a+r /sys/class/powercap" in why and "zeusd" in why


def test_only_the_first_process_on_a_machine_reads_rapl(rapl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    meter = find_meter()
    assert not any(each.startswith("rapl") for each in meter.domains)
    assert meter.missing("cpu").elsewhere


def test_rapl_through_zeusd() -> None:
    cpu = SimpleNamespace(
        cpu_index=1,
        supports_get_dram_energy_consumption=lambda: True,
        get_total_energy_consumption=lambda: SimpleNamespace(cpu_mj=2000.0, dram_mj=500.0),
    )
    package, dram = zeus_meter._cpu(cpu)
    assert (package.domain, package.read(), package.optional) == ("rapl:package-1", 2.0, False)
    assert (dram.domain, dram.read(), dram.optional) == ("rapl:dram-1", 0.5, True)


class Volta:
    """An NVIDIA GPU as Zeus shows it, with the methods that are used of it."""

    __module__ = "zeus.device.gpu.nvidia"
    gpu_index = 3
    handle = 17
    counts = True

    def supports_get_total_energy_consumption(self) -> bool:
        return self.counts

    def get_total_energy_consumption(self) -> int:
        return 12_500

    def get_average_power_usage(self) -> int:
        return 250_000


class Pascal(Volta):
    counts = False

    def get_instant_power_usage(self) -> int:
        raise RuntimeError("Not Supported")


def gpus(monkeypatch: pytest.MonkeyPatch, *found: Any) -> Any:
    monkeypatch.setattr(zeus_meter, "import_module", lambda name: SimpleNamespace(nvmlDeviceGetUUID="GPU-{}".format))
    return zeus_meter._gpus(SimpleNamespace(get_gpus=lambda: SimpleNamespace(gpus=list(found))))


def test_a_gpu_with_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    (counter,), missing = gpus(monkeypatch, Volta())
    assert (counter.domain, counter.device, counter.source) == ("nvml:3", "GPU-17", "nvml")
    assert (counter.read(), counter.resolution, counter.poll_every, missing) == (12.5, 0.1, None, {})


def test_an_old_gpu_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    (counter,), _ = gpus(monkeypatch, Pascal())
    assert counter.source == "nvml power samples" and counter.poll_every == 0.1
    counter.read()
    time.sleep(0.02)
    assert counter.read() >= 5.0


def test_an_amd_gpu_goes_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    amd = type("AMDGPU", (Volta,), {"__module__": "zeus.device.gpu.amd"})
    (_, counter), _ = gpus(monkeypatch, amd(), amd())
    assert (counter.domain, counter.device, counter.source) == ("amd:3", "cuda:1", "amd")


def test_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeus_meter.sys, "platform", "darwin")
    now = SimpleNamespace(cpu_total_mj=3000, dram_mj=None, gpu_mj=500)
    chip = SimpleNamespace(get_total_energy_consumption=lambda: now)
    counters, _ = zeus_meter._apple(SimpleNamespace(get_soc=lambda: chip))
    assert [(each.domain, each.device, each.read()) for each in counters] == [
        ("apple:cpu", "cpu", 3.0), ("apple:gpu", "mps", 0.5),
    ]  # fmt: skip
    found, missing = zeus_meter._apple(SimpleNamespace())
    assert found == [] and "zeus[apple]" in missing["mps"].why


def test_without_zeus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeus_meter, "find_spec", lambda name: None)
    meter = find_meter()
    assert isinstance(meter, NoMeter) and meter.missing("cpu").why.endswith('pip install "ecograph[energy]"')


def test_an_old_zeus_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeus_meter, "find_spec", lambda name: True)
    monkeypatch.setattr(zeus_meter, "version", lambda name: "0.15.1")
    monkeypatch.setattr(zeus_meter, "import_module", lambda name: pytest.fail("it starts processes"))
    assert "Zeus 0.15 is too old: pip install --upgrade" in find_meter().missing("cpu").why


def test_a_zeus_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("no pandas")

    monkeypatch.setattr(zeus_meter, "find_spec", lambda name: True)
    monkeypatch.setattr(zeus_meter, "version", lambda name: "0.16.0")
    monkeypatch.setattr(zeus_meter, "import_module", broken)
    assert "ImportError: no pandas" in find_meter().missing("cuda:0").why


def test_the_names_that_zeus_really_has(caplog: pytest.LogCaptureFixture) -> None:
    """Fakes prove nothing of the package: these are the methods and attributes that are used of it."""
    device = pytest.importorskip("zeus.device")
    assert all(hasattr(device, name) for name in ("get_gpus", "get_cpus", "get_soc"))
    for module, name in (("nvidia", "NVIDIAGPU"), ("amd", "AMDGPU")):
        gpu = getattr(importlib.import_module(f"zeus.device.gpu.{module}"), name)
        used = (
            "supports_get_total_energy_consumption", "get_total_energy_consumption",
            "get_instant_power_usage", "get_average_power_usage",
        )  # fmt: skip
        assert all(callable(getattr(gpu, each)) for each in used)
    measured = importlib.import_module("zeus.device.soc.apple").AppleSiliconMeasurement()
    assert all(hasattr(measured, each) for each in ("cpu_total_mj", "dram_mj", "gpu_mj"))
    find_meter()
    assert [each for each in caplog.records if each.name.startswith("zeus")] == []  # it would be on every stderr
