from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ecograph.cost.calibration.calibrate import Progress
from ecograph.cost.devices import Device, Figure, Timing, find_device, stored
from ecograph.cost.devices.shipped import generic_cpu
from ecograph.tools.checkup import _calibration

TIMING = Timing("aten.mm", "matmul", "forward", "", "float32", False, (1, 8, 8, 8), 1024, 768, False, 1e-6)


def device(spread: float = 0.02) -> Device:
    threads = torch.get_num_threads()
    flops = {"float32": Figure(2e11, "calibrated here"), "float64": Figure(1e11, "assumed: half as fast")}
    made = replace(generic_cpu(threads), name=stored.cpu(threads), title="A CPU", flops=flops)
    return replace(made, timings=(TIMING,), spread=spread)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A calibration that takes no time; what it was asked for."""
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path / "cache"))
    found: dict[str, Any] = {"spread": 0.02}

    def calibrate(dtypes: Any, *, quick: bool, tell: Any) -> Device:
        tell(Progress("matrix products", 0, 10))
        found.update(dtypes=dtypes, quick=quick, threads=torch.get_num_threads())
        if "float8" in dtypes:
            raise ValueError("dtype 'float8' is not timed")
        if found.get("interrupt"):
            raise KeyboardInterrupt
        return device(found["spread"])

    monkeypatch.setattr("ecograph.cost.calibration.calibrate", calibrate)
    return found


def test_a_table(main: Any, asked: dict[str, Any]) -> None:
    code, out, err = main("calibrate")
    assert (code, err) == (0, "")
    assert asked["dtypes"] == ("float32", "bfloat16") and not asked["quick"]
    assert "200 GFLOP/s" in out and "float64" not in out  # which was not timed
    assert "spread of repeats" in out and "2.0%" in out
    assert "ecograph inspect SPEC --cost" in out and "--dry-run" in out and stored.cpu(1) in out
    assert find_device() == device()


def test_json(main: Any, asked: dict[str, Any]) -> None:
    code, out, err = main("calibrate", "--json", "--dtype", "float32", "--quick", "--threads", "2")
    assert (code, err) == (0, "")
    assert asked == {"spread": 0.02, "dtypes": ("float32",), "quick": True, "threads": 2}
    data = json.loads(out)
    assert set(data) == {"device", "disturbed", "seconds", "file"}
    assert data["device"]["flops"]["float32"]["value"] == 2e11 and data["device"]["threads"] == 2
    assert not data["disturbed"] and Path(data["file"]).exists()


def test_a_disturbed_calibration_says_so(main: Any, asked: dict[str, Any]) -> None:
    asked["spread"] = 0.3
    code, out, err = main("calibrate", "--json")
    assert code == 0 and json.loads(out)["disturbed"]
    assert err.startswith("note: disturbed: times of the same work lie 30% apart") and err.count("\n") == 1
    assert find_device().spread == 0.3
    assert _calibration().ok and "ecograph calibrate" in _calibration().fix


def test_an_interrupted_one_leaves_the_old_profile(main: Any, asked: dict[str, Any]) -> None:
    stored.save(device(0.01))
    asked["interrupt"] = True
    assert main("calibrate") == (130, "", "")
    assert find_device() == device(0.01)


def test_mistakes(main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert main("calibrate", "--dtype", "float8") == (2, "", "error: --dtype: dtype 'float8' is not timed\n")
    assert main("calibrate", "--threads", "0")[0] == 2
    (tmp_path / "file").touch()
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path / "file"))
    code, out, err = main("calibrate")
    assert (code, out) == (2, "") and "ECOGRAPH_CACHE names another folder" in err and err.count("\n") == 1


def test_a_gpu_is_not_measured(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    assert main("calibrate")[2] == "note: only the CPU is measured; for NVIDIA L4 estimates take a datasheet\n"


def test_the_doctor_knows() -> None:
    missing = _calibration()
    assert not missing.ok and "1 thread" in missing.value and "ecograph calibrate" in missing.fix
    path = stored.save(device())
    assert _calibration().ok and _calibration().value == "1 timings with 1 thread, spread 2%"
    path.write_text("{")
    assert not _calibration().ok and "holds no device" in _calibration().value
