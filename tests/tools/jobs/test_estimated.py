"""Estimates of whole jobs, through ``ecograph train --dry-run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ecograph.tools.cli import run as cli_run

JOB = """
device = "cpu"
model = "own.py:Net"
data = "own.py:data"

[passes.sparse_backward]
when = "always"
skip_first = false
min_channels = 8

[passes.gradsamp]
every = 4

[loop]
epochs = 8
accumulate = 3
progress = false

[energy]
grid = 50
price = 0.25
currency = "EUR"
"""

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

def data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn(256, 8), torch.randint(4, (256,)))

class Endless:
    def __iter__(self):
        return iter([(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))])

def endless():
    return Endless()
"""


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        return cli_run(["train", "job.toml", "--dry-run", *arguments]), *capsys.readouterr()

    return run


def test_the_whole_run(dry_run: Any) -> None:
    code, out, err = dry_run("--json", "--on", "h100")
    assert (code, err) == (0, "")
    run = json.loads(out)["run"]
    assert (run["epochs"], run["trained_epochs"], run["batches_per_epoch"], run["steps_per_epoch"]) == (8, 6, 8, 3)
    assert run["source"] == "modelled:h100, from datasheets"
    found = run["after"]["footprint"]
    assert (found["grid"], found["price"], found["currency"]) == (50, 0.25, "EUR")
    assert found["cost"] == pytest.approx(0.25 * run["after"]["joules"] / 3.6e6)
    assert run["after"]["seconds"] < run["before"]["seconds"]


def test_the_schedule_is_averaged_over_the_epochs_that_are_trained(dry_run: Any) -> None:
    """Of eight epochs that alternate, the fourth and the eighth are sparse, and skipped: two of six are left."""
    data = json.loads(dry_run("--json")[1])
    assert data["explain"]["passes"][0]["mean_rate"] == pytest.approx(0.8 / 3)
    (saved,) = data["step"]["passes"]
    assert saved["saved"]["flops"] == pytest.approx(saved["saved_at_peak"]["flops"] / 3)


def test_it_is_printed_below_the_loop(dry_run: Any) -> None:
    code, out, err = dry_run()
    assert (code, err) == (0, "")
    table = out[out.index("The whole training of Net on") :]
    assert "6" in table and "CO2 at 50 g/kWh" in table and "EUR" in table and "plain epochs" in table
    assert "def train(" in out[: out.index("The whole training")]


def test_where_it_cannot_be_told_the_rest_is(dry_run: Any) -> None:
    code, out, err = dry_run("--json", "--set", 'data="own.py:endless"', "--set", "passes.sparse_backward=false")
    assert code == 0 and json.loads(out)["run"] is None and json.loads(out)["source"]
    assert err == "note: no estimate of time and energy: the training data does not tell how many batches it has\n"


def test_mistakes(dry_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = dry_run("--on", "h10")
    assert (code, out) == (2, "") and "--on: device 'h10' is not known" in err
    assert dry_run("--set", "energy.price=-1")[2] == "error: --set: energy.price=-1 must be a number of 0 or more\n"
    assert "did you mean 'energy.grid'?" in dry_run("--set", "energy.gird=1")[2]
    assert cli_run(["train", "job.toml", "--on", "h100"]) == 2
    assert "--on is for the estimate of --dry-run" in capsys.readouterr().err


def test_nothing_is_drawn_from_the_random_generator(dry_run: Any) -> None:
    dry_run("--json")
    before = torch.get_rng_state()
    dry_run("--json")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_pays_is_decided_for_the_device_that_is_asked_about(dry_run: Any) -> None:
    pays = ("--set", 'passes.sparse_backward.when="pays"', "--set", 'loop.amp="bf16"')
    data = json.loads(dry_run("--json", "--on", "h100", *pays)[1])
    assert data["explain"]["judged_for"] == "NVIDIA H100 SXM, bfloat16 (modelled, h100, from datasheets)"
    assert json.loads(dry_run("--json", *pays)[1])["explain"]["judged_for"].startswith("a CPU that nobody has measured")
