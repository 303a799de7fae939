"""Whole jobs: in processes of their own where that is the point, and in this one where it is not."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ecograph.loop import TrainingLoop
from ecograph.passes import SparseBackward
from ecograph.tools.train import example_text

JOB = """
seed = 3
device = "cpu"
output = "run"
model = "own.py:Net"
data = "own.py:data"

[optimizer]
name = "sgd"
lr = 0.1
momentum = 0.9

[schedule]
name = "onecycle"

[passes.sparse_backward]
when = "always"
skip_first = false
min_channels = 8

[passes.gradsamp]
every = 3

[loop]
epochs = 4
metric = "own.py:error_rate"
callbacks = ["own.py:Talking"]
checkpoint_every = 2
progress = false
"""

#: With a data set that sends Ctrl-C to its process, once, in the middle of an epoch, where a file asks for it.
OWN = """
import os, signal
from functools import partial
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import Dataset
from ecograph.loop import Callback

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

class Samples(Dataset):
    given = 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        Samples.given += 1
        if Samples.given > 370 and Path("stop").exists():
            Path("stop").unlink()
            os.kill(os.getpid(), signal.SIGINT)
        x = torch.randn(8, generator=torch.Generator().manual_seed(index))
        return x, int(x[:4].argmax())

def data():
    return Samples(), Samples()

def error_rate(outputs, targets):
    return (outputs.argmax(1) != targets).float().mean()

class Talking(Callback):
    def on_epoch_start(self, epoch, model):
        print("the user's own words")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB, encoding="utf-8")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")


@pytest.fixture
def train(main: Any) -> Any:
    def run(*arguments: str) -> tuple[int, str, str]:
        sys.modules.pop("own", None)
        result: tuple[int, str, str] = main("train", "job.toml", *arguments)
        return result

    return run


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return found


# -- in processes of their own ----------------------------------------------------------------------------------------


def test_the_example_runs(cli: Any, main: Any, tmp_path: Path) -> None:
    assert main("train", "--example") == (0, example_text(), "")
    (tmp_path / "example.toml").write_text(example_text(), encoding="utf-8")
    done = cli("train", "example.toml", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["history"]["epochs"][-1]["val_accuracy"] > 0.8
    assert report["explain"]["flops_source"] == "counted"
    assert all((tmp_path / path).exists() for path in report["files"].values())
    assert set(report["files"]) == {"weights", "loop", "job", "checkpoints", "history", "report"}
    again = main("train", report["files"]["job"], "--dry-run", "--json")
    assert json.loads(again[1])["job"] == report["job"]


def test_stopped_and_gone_on_with(cli: Any, train: Any, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    stopped = cli("train", "job.toml", "--set", "loop.clip=1.0")
    assert stopped.returncode == 130, stopped.stderr
    assert stopped.stdout == ""
    said = [line for line in stopped.stderr.splitlines() if line.startswith("to go on: ")]
    assert len(said) == 1
    again = shlex.split(said[0].removeprefix("to go on: "))
    assert again == ["python", "-m", "ecograph.tools", "train", "job.toml", "--set", "loop.clip=1.0", "--resume"]
    assert not (tmp_path / "run/weights.pt").exists()

    code, out, err = train("--resume")
    assert code == 2 and "run was begun with loop.clip = 1.0, and now it is without loop.clip" in err
    went_on = cli(*again[3:])
    assert went_on.returncode == 0, went_on.stderr
    assert "1 of 4 epochs: skipped by GradSamp" in went_on.stdout
    assert re.search(r"energy: .* J, (measured|modelled):.* kWh, .* g CO2", " ".join(went_on.stdout.split()))

    assert train("--set", "loop.clip=1.0", "--set", "output=whole")[0] == 0
    one, other = weights(tmp_path / "run/weights.pt"), weights(tmp_path / "whole/weights.pt")
    assert all(torch.equal(one[name], value) for name, value in other.items())
    values = []
    for name in ("run", "whole"):
        lines = (tmp_path / name / "history.csv").read_text(encoding="utf-8").splitlines()
        values.append([{**row, "seconds": "", "joules": ""} for row in csv.DictReader(lines)])
    assert values[0] == values[1] and len(values[0]) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="torch's gloo needs its own build there")
def test_in_two_processes(tmp_path: Path) -> None:
    """Each has half of the data, so the schedule has half the steps; one prints, and one writes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    options = ["loop.distributed=ddp", "passes.gradsamp=false", "loop.callbacks=[]"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "ecograph.tools",
    ]
    command += ["train", "job.toml", "--json", *(each for option in options for each in ("--set", option))]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [record["epoch"] for record in report["history"]["epochs"]] == [0, 1, 2, 3]
    schedule = torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([torch.ones(1)], 0.1), 0.1, total_steps=4)
    rates = []
    for _ in range(4):
        schedule.optimizer.step()
        schedule.step()
        rates += schedule.get_last_lr()
    assert [record["lr"] for record in report["history"]["epochs"]] == pytest.approx(rates)
    assert "_ddp" not in "".join(weights(tmp_path / "run/weights.pt"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints", "history.csv", "job.toml", "report.json", "train_loop.py", "weights.pt",
    ]  # fmt: skip


# -- in this process --------------------------------------------------------------------------------------------------


def test_a_job_is_the_training_that_it_describes(train: Any, tmp_path: Path) -> None:
    """Against the same training, written out by hand."""
    changes = [
        "passes.gradsamp=false",
        "loop.callbacks=[]",
        "loop.metric=false",
        "output=false",
        "loop.checkpoint_every=false",
    ]
    code, out, err = train(*(each for change in changes for each in ("--set", change)), "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["files"] == {}

    import ecograph

    sys.modules.pop("own", None)
    sys.path.insert(0, str(tmp_path))
    import own  # type: ignore[import-not-found]

    torch.manual_seed(3)
    model = own.Net()
    passes = [SparseBackward(when="always", skip_first=False, min_channels=8)]
    shuffle = torch.Generator().manual_seed(3)
    loaders: list[Any] = [
        torch.utils.data.DataLoader(own.Samples(), 32, shuffle=True, generator=shuffle),
        torch.utils.data.DataLoader(own.Samples(), 32),
    ]
    ecograph.optimize(model, example_inputs=torch.zeros(32, 8), passes=passes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8)
    loop = TrainingLoop(4, passes=passes, lr_step="step", progress=False)
    history = loop.run(model, optimizer, torch.nn.functional.cross_entropy, *loaders, schedule)
    measured = {"seconds": 0, "joules": 0}
    for found, expected in zip(report["history"]["epochs"], history.to_dict()["epochs"], strict=True):  # type: ignore[call-overload]
        assert {**found, **measured} == {**expected, **measured}
    totals = ecograph.explain(model).to_dict()
    assert report["explain"]["flops_after"] == totals["flops_after"]
    assert report["explain"]["passes"] == totals["passes"]


def test_the_report_and_the_folder(train: Any, tmp_path: Path) -> None:
    code, out, err = train()
    assert code == 0
    assert err == "the user's own words\n" * 4
    for word in (
        "error", "sparse_backward: 2 of 3 layers", "gradsamp: in the loop", "a step:", "counted", "time:",
        "1 of 4 epochs: skipped by GradSamp", "run/weights.pt", "run/checkpoints", "run/history.csv",
    ):  # fmt: skip
        assert word in out
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints", "history.csv", "job.toml", "report.json", "train_loop.py", "weights.pt",
    ]  # fmt: skip
    compile((tmp_path / "run/train_loop.py").read_text(encoding="utf-8"), "train_loop.py", "exec")
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert len(report["history"]["epochs"]) == 4 and report["notes"] == {"skipped by GradSamp": 1}

    before = weights(tmp_path / "run/weights.pt")
    code, out, err = train()
    assert code == 2 and "run holds a run already: --resume" in err
    code, out, err = train("--resume", "--set", "loop.annotate=true")  # it is complete: nothing is left to do
    assert code == 0 and "the user's own words" not in err
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run/weights.pt").items())
    assert main_says(train("--resume", "--set", "optimizer.lr=0.2")) == (
        "error: run was begun with optimizer.lr = 0.1, and now it is optimizer.lr = 0.2: resume it with what it was "
        "begun with, or begin another one by --set output=FOLDER"
    )


def main_says(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, out) == (2, "")
    return err.removesuffix("\n")


def test_only_the_first_process_says_anything(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts the second one; what it waits for the first with is the loop's business."""
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    code, out, err = train("--set", "loop.callbacks=[]")
    assert (code, out, err) == (0, "", "")
    assert [path.name for path in (tmp_path / "run").glob("*.*")] == ["history.csv"], "which the loop writes"
    code, out, err = train("--set", "data=digist")
    assert (code, out) == (2, "") and err.startswith("error: process 1: ")


def test_dry_run(train: Any, tmp_path: Path) -> None:
    code, out, err = train("--dry-run")
    assert (code, err) == (0, "")
    source, _, report = out.partition("    main(train)\n")
    compile(source + "    main(train)\n", "loop", "exec")
    assert "GradSamp(every=3)" in source and "FOLDER" not in source and '"run/checkpoints"' in source
    assert "sparse_backward: 2 of 3 layers" in report
    assert not (tmp_path / "run").exists()
    data = json.loads(train("--dry-run", "--json")[1])
    assert data["source"] == source + "    main(train)\n"
    # On average over the schedule: two of four epochs are dense, and one of these is skipped.
    rate = data["explain"]["passes"][0]["mean_rate"]
    assert rate == pytest.approx(0.8 * 2 / 3)
    without = ["--set", "passes.sparse_backward=false", "--dry-run"]
    assert json.loads(train(*without, "--json")[1])["explain"] is None
    printed = train(*without)[1].partition("    main(train)\n")[2]
    assert "sparse_backward" not in printed and "The whole training of Net" in printed


#: What is typed after `ecograph train`, and what the line says.
MISTAKES: list[tuple[str, tuple[str, ...]]] = [
    ("", ("CONFIG.toml", "--example", "ecograph train --help")),
    ("nothing.toml", ("nothing.toml", "--example")),
    ("job.toml --set loop.epohcs=3", ("did you mean 'loop.epochs'",)),
    ("job.toml --set loop.epochs=0", ("[loop] epochs=0",)),
    ("job.toml --set loop.stop=val_accuracy>0.5", ("[loop] stop=", "val_error_rate")),
    ("job.toml --set loop.metric=f1", ("[loop] metric='f1'",)),
    ("job.toml --set loop.metric=own.py:f1", ("loop.metric 'own.py:f1'", "no 'f1'")),
    ("job.toml --set loop.callbacks=['own.py:data']", ("derive its class from",)),
    ("job.toml --set model=demo:huge", ("demo:huge", "tiny")),
    ("job.toml --set data=digist", ("did you mean digits",)),
    ("job.toml --set data=digits", ("own.py:Net", "digits", "do not fit together")),
    ("job.toml --set optimizer.lrr=1", ("did you mean 'lr'",)),
    ("job.toml --set schedule=plateau --set loop.lr_step=step", ("plateau", "val_loss")),
    ("job.toml --set loss=hinge", ("hinge", "cross_entropy")),
    ("job.toml --set device=abacus", ("abacus",)),
    ("job.toml --set passes.sparse_backward.drop=2", ("passes.sparse_backward: drop=2",)),
    ("job.toml --set model.skip=['9']", ("9",)),
    ("job.toml --set output=job.toml/run", ("job.toml/run",)),
    ("job.toml --set output=false --set loop.checkpoint_every=false --resume", ("--resume needs checkpoints",)),
    (
        "job.toml --set loop.distributed=ddp",
        ("torchrun --nproc-per-node=2", "train job.toml --set loop.distributed=ddp"),
    ),
    ("job.toml --set output=false", ("checkpoint_every needs a folder",)),
    ("job.toml --set optimizer.lr=1e30", ("loss",)),
]


@pytest.mark.parametrize(("typed", "words"), MISTAKES, ids=[typed or "nothing" for typed, _ in MISTAKES])
def test_mistakes(typed: str, words: tuple[str, ...], main: Any) -> None:
    sys.modules.pop("own", None)
    code, out, err = main("train", *typed.split())
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_interrupted_without_a_folder(train: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # In the background of a shell Ctrl-C is ignored, and so it would be here.
    request.addfinalizer(
        partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
    )
    (tmp_path / "stop").touch()
    code, out, err = train("--set", "output=false", "--set", "loop.checkpoint_every=false")
    assert (code, out) == (130, "")
    assert "nothing is kept: set output to a folder" in err
