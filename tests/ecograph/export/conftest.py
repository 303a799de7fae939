from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from onnx_exporter import remember_torchlib

from ecograph.export.requirements import check_installed

try:
    check_installed()  # and not importorskip: importing ONNX Runtime changes torch.utils.checkpoint
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)
remember_torchlib()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_partial_files(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing may be left behind."""
    yield tmp_path / "exported"
    assert list(tmp_path.iterdir()) == []
