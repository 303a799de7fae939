"""A program in several processes, as torchrun starts them: stopped, gone on with, and failing on one of them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_ranks import needs_gloo

from ecograph.loop import TrainingLoop
from ecograph.tools import ranks
from ecograph.tools.errors import UserError

#: With a data set that sends Ctrl-C to torchrun, once, from its second process in the middle of the second epoch.
OWN = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import Dataset

class Samples(Dataset):
    given = 0

    def __len__(self):
        return 24

    def __getitem__(self, index):
        Samples.given += 1
        if Samples.given > 24 and os.environ["RANK"] == "1" and not Path("stopped").exists():
            Path("stopped").touch()
            os.kill(os.getppid(), signal.SIGINT)
            noted = signal.getsignal(signal.SIGINT).__self__
            while noted.pending is None:  # until torchrun has passed it on
                time.sleep(0.001)
        return torch.full((4,), index / 24), index % 2

def data():
    return Samples(), Samples()

class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

class Failing(Net):
    def forward(self, x):
        if os.environ["RANK"] == "1":
            x = x * float("nan")
        return super().forward(x)
"""


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300
    )


@needs_gloo
def test_an_ejected_file_is_stopped_and_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    loop = TrainingLoop(3, distributed="ddp", checkpoint="kept", checkpoint_every=1, log="history.csv")
    loop.eject(tmp_path / "fit.py")
    typed = ["fit.py", "own.py:Net", "own.py:data", "--batch-size", "4", "--device", "cpu", "-o", "w.pt"]
    stopped = torchrun(tmp_path, *typed)
    assert stopped.returncode != 0 and stopped.stdout == ""
    said = [line for line in stopped.stderr.splitlines() if line.startswith("stopped by SIGINT after ")]
    assert len(said) == 1, stopped.stderr
    again = [line for line in stopped.stderr.splitlines() if line.startswith("to go on: ")]
    assert again == [f"to go on: torchrun --nproc-per-node=2 {shlex.join(typed)} --resume"]
    assert not (tmp_path / "w.pt").exists()

    done = torchrun(tmp_path, *shlex.split(again[0])[5:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch") == 1, "one process prints the table"
    assert done.stderr.count("wrote w.pt") == 1
    assert sorted(torch.load(tmp_path / "w.pt", weights_only=True)) == ["bias", "weight"]
    lines = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "epoch-0002-step-000003.pt", "epoch-0003-step-000000.pt",
    ]  # fmt: skip


@needs_gloo
def test_what_one_process_finds_ends_all(tmp_path: Path) -> None:
    """With checkpoints, so that the one that waits is not ended by the signal that torchrun then sends."""
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "stopped").touch()
    TrainingLoop(3, distributed="fsdp", checkpoint="kept").eject(tmp_path / "fit.py")
    done = torchrun(tmp_path, "fit.py", "own.py:Failing", "own.py:data", "--device", "cpu")
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("error: process 1: the training loss became nan in epoch 1") == 1, done.stderr
    assert not (tmp_path / "kept").exists()


def test_started_as_the_loop_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)
    starts = {
        "/bin/ecograph": "-m ecograph.tools train",
        "/lib/ecograph/tools/__main__.py": "-m ecograph.tools train",
        "fit.py": "fit.py train",
    }
    for program, rest in starts.items():
        monkeypatch.setattr(sys, "argv", [program])
        ranks.check_started(distributed=False, option="", arguments=[])
        with pytest.raises(UserError, match=f"start them with torchrun --nproc-per-node=2 {rest} 'a job.toml'$"):
            ranks.check_started(distributed=True, option="", arguments=["train", "a job.toml"])
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (1, 3, False)
    ranks.check_started(distributed=True, option="", arguments=[])
    with pytest.raises(UserError, match="3 processes were started.*start it alone, or set loop.distributed"):
        ranks.check_started(distributed=False, option="set loop.distributed", arguments=[])


def test_the_command_line_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    for program, start in (("/bin/ecograph", "ecograph"), ("fit.py", "python fit.py")):
        monkeypatch.setattr(sys, "argv", [program])
        assert ranks.command("train", "a b") == f"{start} train 'a b'"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "some")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks.command("x") == "torchrun --nproc-per-node=4 fit.py x"
