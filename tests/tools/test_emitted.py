"""What is read from the text of a loop is what its options were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ejected import ejected

from ecograph.loop import Callback, TrainingLoop
from ecograph.passes import GradSamp, SparseBackward
from ecograph.tools import emitted

LOOPS: list[dict[str, Any]] = [
    {},
    {"lr_step": "step"},
    {"lr_step": "val_loss"},
    {"lr_step": "step", "accumulate": 3},
    {"accumulate": 5, "batch": "args", "progress": False},
    {"batch": "dict"},
    {"batch": "dict", "accumulate": 2, "lr_step": "step"},
    {"passes": [GradSamp(every=4)]},
    {"passes": [GradSamp(every=4)], "lr_step": "step", "accumulate": 2},
    {"passes": [SparseBackward()], "amp": "bf16", "ema": 0.9, "stop": "val_loss < 1"},
    {"checkpoint": "c", "log": "h.csv", "metric": "accuracy", "val_every": 2, "lr_step": "val_loss"},
]


@pytest.mark.parametrize("options", LOOPS, ids=str)
def test_course(options: dict[str, Any], tmp_path: Path) -> None:
    loop = TrainingLoop(7, **options)
    train = ejected(loop, tmp_path / "a_loop.py")
    course = emitted.course_of(train)
    assert (course.epochs, course.lr_step, course.accumulate) == (7, loop.lr_step, loop.accumulate)
    assert course.own_loss == (loop.batch == "dict")
    assert callable(course.evaluate)
    assert emitted.needs_rates(train) == any(isinstance(each, SparseBackward) for each in loop.passes)
    assert emitted.arguments(train) == (["resume"] if loop.checkpoint else [])


@pytest.mark.parametrize(("written", "epochs"), [("9", 9), ("2 * 9", None), ("'nine'", None)])
def test_a_file_that_was_changed(tmp_path: Path, written: str, epochs: int | None) -> None:
    assert emitted.course_of(ejected(TrainingLoop(7), tmp_path / "a.py", epochs=written)).epochs == epochs


def test_what_no_text_can_make(tmp_path: Path) -> None:
    loop = TrainingLoop(7, metric=lambda outputs, targets: 1, callbacks=[Callback()], checkpoint="c")
    assert emitted.arguments(ejected(loop, tmp_path / "a.py")) == ["metric", "callbacks", "resume"]
