from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ecograph.tools.cli import run as cli_run

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Main = Callable[..., tuple[int, str, str]]

MODELS = '''
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.middle = nn.Linear(64, 64)
        self.last = nn.Linear(64, 10)

    def forward(self, x):
        return self.last(self.middle(self.first(x).relu()).relu())

class Two(Net):
    def forward(self, x, *, mask):
        return super().forward(x) * mask

class Stubborn(Net):
    """Decides by values, which the meta device does not have."""
    def forward(self, x):
        return super().forward(x if x.sum().item() < 1e9 else -x)

class NeedsWidth(nn.Linear):
    pass

def broken():
    return 1 / 0

def number():
    return 3

def empty():
    return nn.ReLU()

constant = 3
instance = Net()
'''


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """Runs the command line as a user does, in an empty folder that holds `models.py`."""
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}

    def run(*arguments: str, columns: int | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ecograph.tools", *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=environment | ({"COLUMNS": str(columns)} if columns else {}) | {"PYTHONIOENCODING": "utf-8"},
            timeout=300,
        )

    return run


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Runs the command line in this process, which is faster; in a folder that holds `models.py`."""
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        sys.modules.pop("models", None)
        code = cli_run(arguments)
        return code, *capsys.readouterr()

    return run
