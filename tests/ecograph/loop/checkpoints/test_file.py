from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ecograph.loop.checkpoints import CheckpointError, file

CONTENT = {"weights": {"a": torch.arange(6.0)}, "steps": 3, "random": (3, (1, 2), None), "notes": ["x"]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    file.write(path, CONTENT)
    found = file.read(path)
    assert torch.equal(found.pop("weights")["a"], torch.arange(6.0))
    assert found.pop("format") == "ecograph checkpoint"
    assert found == {"version": 1, "steps": 3, "random": (3, (1, 2), None), "notes": ["x"]}
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    file.write(path, CONTENT)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        file.write(path, {"lambda": lambda: 0})  # cannot be pickled
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("epoch,loss\n")


def bytes_in_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(bytes(data))


def foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def newer(path: Path) -> None:
    torch.save({"format": file.FORMAT, "version": 99}, path)


class Code:
    """Runs a command as it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


def code(path: Path) -> None:
    torch.save({"format": file.FORMAT, "version": 1, "x": Code()}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off, "cut off or damaged"),
        (empty, "cut off or damaged"),
        (text, "damaged"),
        (foreign, "not written by a training loop of ecograph"),
        (newer, "format version 99, this ecograph reads 1"),
        (code, "not a checkpoint of numbers and tensors alone"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_what_cannot_be_used_is_one_clear_error(
    damage: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    file.write(path, CONTENT)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        file.read(path)
    assert str(path) in str(caught.value)
    assert list(tmp_path.iterdir()) == [path], "nothing was run"
