"""The program behind ``trial``: takes training steps and an eval step with arrays that come in as an ``.npz``.

It needs neither torch nor ecograph, and imports neither.
"""

from __future__ import annotations

import io
import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    """Takes the steps: ``batch.<i>`` are inputs and targets, ``<file>/<name>`` are a training graph's other inputs."""
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as sent:
        batch = [sent[name] for name in sent.files if name.startswith("batch.")]
        choices: dict[str, dict[str, Any]] = {}
        for name in sent.files:
            graph, _, input = name.partition("/")
            if input:
                choices.setdefault(graph, {})[input] = sent[name]
    _without_torch()
    from onnxruntime import SessionOptions
    from onnxruntime.training import api

    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    state = api.CheckpointState.load_checkpoint(folder / "checkpoint")
    evaluation, optimization = (os.fspath(folder / f"{name}_model.onnx") for name in ("eval", "optimizer"))
    for graph, own in choices.items():
        module = api.Module(os.fspath(folder / graph), state, evaluation, session_options=options)
        optimizer = api.Optimizer(optimization, module)
        module.train()
        module(*batch, *(own[name] for name in module.input_names() if name in own))
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
