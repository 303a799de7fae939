"""A generated loop as a program: in processes of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ejected import ejected
from torch.utils.data import DataLoader

from ecograph.loop import Callback, TrainingLoop
from ecograph.passes import Extrapolate, GradSamp, SparseBackward
from ecograph.tools import data, standalone
from ecograph.tools.demo_model import build

#: A data set that sends Ctrl-C to its process, once, in the middle of the second epoch.
STOPPING = """
import os, signal
from pathlib import Path
import torch
from torch.utils.data import Dataset

class Samples(Dataset):
    def __init__(self):
        self.given = 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.given += 1
        if self.given > 60 and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return torch.full((1, 8, 8), index / 40), index % 10

def data():
    print("a data set that talks")
    return Samples()
"""

LATE = """
import torch
from torch import nn

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

    def forward(self, x):
        if self.training:
            raise ValueError("a bug in a model")
        return super().forward(x)
"""


@pytest.fixture
def program(tmp_path: Path) -> Any:
    """Runs `python train_loop.py` in a folder with that file."""
    (tmp_path / "stopping.py").write_text(STOPPING, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "train_loop.py", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, env=environment, timeout=300
        )

    return run


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a loop of 7 epochs as a program in this process, which is faster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(loop: TrainingLoop, *typed: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            standalone.main(ejected(loop, tmp_path / "a_loop.py"), typed)
        return ended.value.code, *capsys.readouterr()

    return run


def test_an_ejected_file_is_clean_says_how_it_is_used_and_trains(program: Any, tmp_path: Path) -> None:
    """It is no other training than the one that is written out here."""
    loop = TrainingLoop(4, passes=[GradSamp(every=4), Extrapolate(radius=0.01)], metric="accuracy", amp="bf16")
    loop.eject(tmp_path / "train_loop.py")
    check = ["ruff", "check", "--isolated", "--select", "E,F,I,B,N,SIM,UP,D", "--ignore", "D203,D213", "train_loop.py"]
    done = subprocess.run([sys.executable, "-m", *check], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    helped = program("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    for word in ("train_loop.py [OPTIONS]", "MODEL", "digits", "random:SHAPE:CLASSES", "--lr-schedule", "--pass"):
        assert word in helped.stdout
    assert "--resume" not in helped.stdout

    options = "--optimizer sgd --lr 0.05 --momentum 0.9 --lr-schedule cosine --seed 3 --batch-size 16 --device cpu"
    done = program("demo:tiny", "random:1x8x8:10:64", *options.split(), "--output", "out/w.pt", "--json")
    assert done.returncode == 0, done.stderr
    torch.manual_seed(3)
    model = build("tiny")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    found = data.find("random:1x8x8:10:64")
    loader: Any = DataLoader(found.train, 16, shuffle=True, generator=torch.Generator().manual_seed(3))
    history = loop.run(model, optimizer, F.cross_entropy, loader, DataLoader(found.val, 16), schedule)
    epochs = json.loads(done.stdout)["epochs"]
    measured = {"seconds": 0, "joules": 0}
    for then, now in zip(epochs, history.to_dict()["epochs"], strict=True):  # type: ignore[call-overload]
        assert {**then, **measured} == {**now, **measured}
    weights = torch.load(tmp_path / "out/w.pt", weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert "wrote out/w.pt" in done.stderr


def test_stopped_and_gone_on_with(program: Any, run: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoint_every": 1, "passes": [SparseBackward(when="always")], "progress": False}
    TrainingLoop(7, checkpoint="kept", **options).eject(tmp_path / "train_loop.py")
    typed = ["demo:tiny", "stopping.py:data", "--batch-size", "8", "--pass", "sparse_backward:when=always"]
    stopped = program(*typed, "--output", "w.pt")
    assert stopped.returncode == 130
    assert stopped.stdout == "" and not (tmp_path / "w.pt").exists()
    assert "a data set that talks" in stopped.stderr
    said = [line for line in stopped.stderr.splitlines() if line.startswith("to go on: ")]
    assert len(said) == 1
    again = shlex.split(said[0].removeprefix("to go on: "))
    assert again == ["python", "train_loop.py", *typed, "--output", "w.pt", "--resume"]
    kept, whole = (TrainingLoop(7, checkpoint=folder, **options) for folder in ("kept", "whole"))
    code, out, err = run(kept, *again[2:])
    assert code == 0, err
    assert len([line for line in out.splitlines() if line.startswith("│")]) == 7

    assert run(whole, *typed, "--output", "whole.pt")[0] == 0
    one, other = (torch.load(tmp_path / name, weights_only=True) for name in ("w.pt", "whole.pt"))
    assert all(torch.equal(one[name], value) for name, value in other.items())
    code, _, err = run(whole, *typed)
    assert code == 2 and "--resume goes on with it" in err


#: Options of the loop, what was typed, and what the line says.
MISTAKES: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    ({}, "", ("MODEL", "--help")),
    ({}, "demo:tiny", ("DATA", "--help")),
    ({}, "demo:tiny nothing", ("data 'nothing'", "digits")),
    ({}, "demo:timy random:1x8x8:10", ("demo:timy", "tiny")),
    ({}, "demo:tiny random:1x8x8:10 --resume", ("--resume", "--help")),
    ({}, "demo:tiny random:1x8x8:10 --optimizer sdg", ("did you mean sgd",)),
    ({}, "demo:tiny random:1x8x8:10 --momentum 0.9", ("adamw", "'momentum'")),
    ({}, "demo:tiny random:1x8x8:10 --lr -1", ("lr=-1.0",)),
    ({}, "demo:tiny random:1x8x8:10 --lr-schedule plateau", ("plateau", "val_loss")),
    ({}, "demo:tiny random:1x8x8:10 --lr-schedule step", ("step_size",)),
    ({}, "demo:tiny random:1x8x8:10 --loss hinge", ("hinge", "cross_entropy")),
    ({}, "demo:tiny random:1x8x8:10 --batch-size 0", ("--batch-size",)),
    ({}, "demo:tiny random:1x8x8:10 --device abacus", ("abacus",)),
    ({}, "demo:tiny random:1x8x8:10 --output .", ("--output .", "folder")),
    ({}, "demo:tiny random:1x8x8:10 --pass nothing", ("'nothing'", "sliceout")),
    ({}, "demo:tiny random:1x8x8:10 --pass gradsamp", ("--pass 'gradsamp'", "ecograph loop --pass gradsamp")),
    ({}, "demo:tiny random:3x8x8:10", ("do not fit together",)),
    ({"lr_step": "val_loss"}, "demo:tiny random:1x8x8:10 --lr-schedule cosine", ("cosine", "validation loss")),
    ({"passes": [SparseBackward()]}, "demo:tiny random:1x8x8:10", ("--pass sparse_backward:drop=0.8",)),
    ({"metric": lambda outputs, targets: 0.0}, "demo:tiny random:1x8x8:10", ("metric", "from a_loop import train")),
    ({"callbacks": [Callback()]}, "demo:tiny random:1x8x8:10", ("callbacks", "from a_loop import train")),
    ({"batch": "dict"}, "demo:tiny random:1x8x8:10", ("a batch is a list", 'batch="dict"')),
]


@pytest.mark.parametrize(("options", "typed", "words"), MISTAKES, ids=[f"{', '.join(o)} {t}" for o, t, _ in MISTAKES])
def test_mistakes(options: dict[str, Any], typed: str, words: tuple[str, ...], run: Any) -> None:
    code, out, err = run(TrainingLoop(7, progress=False, **options), *typed.split())
    assert (code, out) == (2, "")
    line = err.removesuffix("\n")
    assert line.startswith("error: ") and "\n" not in line
    for word in words:
        assert word in line


def test_a_loss_that_is_nan_is_no_traceback(run: Any) -> None:
    typed = "demo:tiny random:1x8x8:10 --optimizer sgd --lr 1e30"
    code, _, err = run(TrainingLoop(7, progress=False), *typed.split())
    assert code == 2 and err.startswith("error: ")


def test_resume_is_offered_where_there_are_checkpoints(run: Any) -> None:
    assert "--resume" in run(TrainingLoop(7, checkpoint="kept"), "--help")[1]
    assert "--resume" not in run(TrainingLoop(7), "--help")[1]


def test_a_bug_of_the_user_s_keeps_its_traceback(run: Any, tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE, encoding="utf-8")
    with pytest.raises(ValueError, match="a bug in a model"):
        run(TrainingLoop(7, progress=False), "late.py:Net", "random:4:2")
