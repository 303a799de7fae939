from __future__ import annotations

from pathlib import Path

import pytest

from ecograph.loop.checkpoints import CheckpointError
from ecograph.loop.checkpoints.folder import Folder


def names(folder: Folder) -> list[str]:
    return [path.name for path in folder.files()]


def test_the_last_ones_are_kept_by_epoch_and_step(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "run", keep=2)
    assert folder.files() == [] and folder.last() is None
    for epoch, step in ((0, 9), (0, 10), (1, 0), (9999, 999999), (10000, 1000000)):
        folder.write(epoch, step, {"at": [epoch, step]})
    assert names(folder) == ["epoch-10000-step-1000000.pt", "epoch-9999-step-999999.pt"]
    path, content = folder.last() or (None, {})
    assert path == folder.files()[0] and content["at"] == [10000, 1000000]


def test_other_files_are_left_alone_and_leftovers_removed(tmp_path: Path) -> None:
    for name in ("notes.txt", "epoch-0001-step-000000.pt.bak", "best.pt", "epoch-0001-step-000000.pt.77.part"):
        (tmp_path / name).write_text("x")
    folder = Folder(tmp_path, keep=1)
    folder.write(0, 1, {})
    folder.write(0, 2, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("best.pt", "epoch-0000-step-000002.pt", "epoch-0001-step-000000.pt.bak", "notes.txt"),
    ]


def test_a_damaged_one_falls_back_to_the_one_before(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write(0, 0, {"at": 0})
    folder.write(1, 0, {"at": 1}).write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"epoch-0001.*damaged.*on from epoch-0000-step-000000.pt, which is older"):
        path, content = folder.last() or (None, {})
    assert content["at"] == 0
    folder.files()[1].write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="which is older"),
        pytest.raises(CheckpointError, match="none of the checkpoints in .* can be read.*another folder"),
    ):
        folder.last()
