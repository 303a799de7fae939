from __future__ import annotations

import json
import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import torch

from ecograph.cost.meter import Counter, CounterMeter, NoMeter
from ecograph.tools import checkup
from ecograph.tools.checkup import EXTRAS, Check, checks


def test_json(main: Any) -> None:
    code, out, err = main("doctor", "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)["checks"]}
    assert rows["torch"]["value"] == torch.__version__
    assert rows["Dynamo"]["ok"]
    assert rows["extra demo"]["ok"]
    assert all(set(row) == {"name", "ok", "value", "fix"} for row in rows.values())


def test_table_in_a_process_of_its_own(cli: Any) -> None:
    done = cli("doctor", columns=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "RAPL" in done.stdout and "missing" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_what_is_missing_has_a_fix() -> None:
    assert [check for check in checks() if not check.ok and not check.fix] == []


def test_extras_are_those_of_the_package() -> None:
    found: dict[str, set[str]] = {}
    for line in requires("ecograph") or []:
        match = re.match(r'([\w.-]+)[^;]*;.*extra == "(\w+)"', line)
        if match and match[2] not in ("test", "dev"):
            found.setdefault(match[2], set()).add(match[1])
    assert {name: set(each) for name, each in EXTRAS.items()} == found


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "_version", lambda distribution: None)
    assert checkup._extra("demo", ("scikit-learn",)) == Check(
        "extra demo", False, "scikit-learn missing", 'pip install "ecograph[demo]"'
    )


@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_energy_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    counter = tmp_path / "intel-rapl:0" / "energy_uj"
    counter.parent.mkdir()
    counter.write_text("1")
    monkeypatch.setattr(checkup, "RAPL", tmp_path)
    monkeypatch.setattr("os.access", lambda path, wanted: bool(mode))
    found = checkup._rapl()
    assert found.ok is bool(mode)
    assert ("chmod" in found.fix) is not bool(mode)


def test_whether_energy_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecograph.cost.meter.find_meter", lambda: NoMeter("sudo chmod a+r them"))
    assert checkup._energy() == Check("energy", False, "modelled from CPU time", "sudo chmod a+r them")
    gpu = CounterMeter([Counter("nvml:0", "GPU-1", "nvml", 0.1, lambda: 0.0)])
    monkeypatch.setattr("ecograph.cost.meter.find_meter", lambda: gpu)
    assert checkup._energy() == Check("energy", True, "measured: nvml:0; the CPU is modelled")
