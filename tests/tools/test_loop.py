from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecograph.loop import TrainingLoop
from ecograph.passes import SparseBackward

OPTIONS = {
    "": TrainingLoop(30),
    "--epochs 3 --amp bf16": TrainingLoop(3, amp="bf16"),
    "--clip 1 --accumulate 4": TrainingLoop(30, clip=1.0, accumulate=4),
    "--metric accuracy --lr-step step": TrainingLoop(30, metric="accuracy", lr_step="step"),
    "--batch dict --no-progress": TrainingLoop(30, batch="dict", progress=False),
    "--annotate --pass sparse_backward": TrainingLoop(30, annotate=True, passes=[SparseBackward()]),
    "--pass sparse_backward:drop=0.5,schedule=bar,skip_last=false": TrainingLoop(
        30, passes=[SparseBackward(drop=0.5, schedule="bar", skip_last=False)]
    ),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_prints_the_source(main: Any, options: str) -> None:
    assert main("loop", *options.split()) == (0, OPTIONS[options].source, "")


def test_writes_a_file(main: Any, tmp_path: Path) -> None:
    code, out, err = main("loop", "-o", "loop.py")
    assert (code, out, err) == (0, "", "note: wrote loop.py\n")
    assert (tmp_path / "loop.py").read_text(encoding="utf-8") == TrainingLoop(30).source


def test_in_a_process_of_its_own(cli: Any) -> None:
    done = cli("loop", "--epochs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    compile(done.stdout, "loop", "exec")
