"""A generated loop, in a file of its own and imported from there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ecograph.loop import TrainingLoop


def ejected(loop: TrainingLoop, path: Path, *, epochs: str = "7") -> Any:
    """The function ``train`` of the file, for a loop of 7 epochs in which somebody may have changed that."""
    loop.eject(path)
    text = path.read_text(encoding="utf-8")
    assert text.count("    epochs = 7\n") == 1
    path.write_text(text.replace("    epochs = 7\n", f"    epochs = {epochs}\n"), encoding="utf-8")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.train
