from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime.training.api", reason="needs the extra onnx: onnxruntime with training")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_partial_files(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing may be left behind."""
    yield tmp_path / "exported"
    assert list(tmp_path.iterdir()) == []
