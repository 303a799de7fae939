"""What each option changes in the text of the loop, next to the plain one: read the files in ``golden/``.

After a change that is meant, write them anew with ``python tests/ecograph/loop/test_golden.py``, and read what differs.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest

from ecograph.loop import Callback, TrainingLoop
from ecograph.passes import Extrapolate, GradSamp, SliceOut, SparseBackward

GOLDEN = Path(__file__).parent / "golden"

OPTIONS: dict[str, dict[str, Any]] = {
    "progress": {"progress": False},
    "amp_bf16": {"amp": "bf16"},
    "amp_fp16": {"amp": "fp16"},
    "amp_fp16_clip": {"amp": "fp16", "clip": 1.0},
    "clip": {"clip": 1.0},
    "accumulate": {"accumulate": 4},
    "metric": {"metric": "accuracy"},
    "lr_step": {"lr_step": "step"},
    "lr_val_loss": {"lr_step": "val_loss"},
    "batch_args": {"batch": "args"},
    "batch_kwargs": {"batch": "kwargs"},
    "batch_dict": {"batch": "dict"},
    "compile": {"compile": True},
    "ema": {"ema": 0.999},
    "val_every": {"val_every": 5},
    "stop": {"stop": "val_loss <= 0.1"},
    "checkpoint": {"checkpoint": "runs/a", "checkpoint_every": 100},
    "checkpoint_stop": {"checkpoint": "runs/a", "stop": "val_loss <= 0.1"},
    "log_csv": {"log": "runs/a.csv"},
    "log_tensorboard": {"log": ["runs/a.jsonl", "runs/board"]},
    "callbacks": {"callbacks": [Callback()]},
    "sparse_backward": {"passes": [SparseBackward(drop=0.5)]},
    "sliceout": {"passes": [SliceOut(0.25)], "annotate": True},
    "gradsamp": {"passes": [GradSamp(every=4)]},
    "extrapolation": {"passes": [Extrapolate(radius=0.1)]},
    "extrapolation_noise_fp16": {"passes": [Extrapolate(radius=0.1, direction="noise", until=5)], "amp": "fp16"},
}


def difference(options: dict[str, Any]) -> str:
    """Returns the lines that the options change, with one line around them."""
    plain, found = (TrainingLoop(30, **each).source.splitlines(keepends=True) for each in ({}, options))
    lines = list(difflib.unified_diff(plain, found, "plain", "with the option", n=1))
    return "".join(line if line.startswith(("---", "+++")) or not line.startswith("@@") else "@@\n" for line in lines)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_changes_these_lines_and_no_others(name: str) -> None:
    assert difference(OPTIONS[name]) == (GOLDEN / f"{name}.diff").read_text(encoding="utf-8")


def test_there_is_a_file_for_each() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(OPTIONS)


if __name__ == "__main__":
    for name, options in OPTIONS.items():
        (GOLDEN / f"{name}.diff").write_text(difference(options), encoding="utf-8")
