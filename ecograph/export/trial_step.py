"""The program behind ``trial``: takes a training step and an eval step with arrays that come in as an ``.npz``.

It needs neither torch nor ecograph, and imports neither.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Takes the two steps."""
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as sent:
        batch = [sent[name] for name in sent.files if name.startswith("batch.")]
        choices = {name.removeprefix("choice."): sent[name] for name in sent.files if name.startswith("choice.")}
    _without_torch()
    from onnxruntime import SessionOptions
    from onnxruntime.training import api

    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    state = api.CheckpointState.load_checkpoint(folder / "checkpoint")
    training, evaluation = (os.fspath(folder / f"{name}_model.onnx") for name in ("training", "eval"))
    module = api.Module(training, state, evaluation, session_options=options)
    optimizer = api.Optimizer(os.fspath(folder / "optimizer_model.onnx"), module)
    module.train()
    module(*batch, *(choices[name] for name in module.input_names() if name in choices))
    optimizer.step()
    module.eval()
    module(*batch)


def _without_torch() -> None:
    """Has ``onnxruntime.training.api`` imported by itself: its package imports torch, for parts not used here."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    found = find_spec("onnxruntime")
    assert found is not None and found.submodule_search_locations
    package = ModuleSpec("onnxruntime.training", None, is_package=True)
    package.submodule_search_locations = [os.path.join(found.submodule_search_locations[0], "training")]
    sys.modules["onnxruntime.training"] = module_from_spec(package)


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose files have common names
    main(Path(sys.argv[1]))
