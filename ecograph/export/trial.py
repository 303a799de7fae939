"""One training step and one eval step in a process of their own, before anything is published.

Some operators end the process in ONNX Runtime; then it is that one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from ecograph import registry
from ecograph.export.choices import keep_counts, ranked
from ecograph.export.gradients import KEEP, RANKS
from ecograph.export.manifest import Manifest
from ecograph.export.requirements import short

#: The other process: it runs by its path, because importing ecograph, hence torch, would take it seconds.
PROGRAM = Path(__file__).with_name("trial_step.py")


class TrialError(Exception):
    """The step failed; the message is what ONNX Runtime said, in one line."""


def take_steps(folder: Path) -> None:
    """Takes the two steps with the files of an export: zeros as the batch, every site sparse.

    Raises:
        TrialError: where a step fails or the process crashes.
    """
    manifest = Manifest.read(folder)
    batch = [np.zeros([size or 2 for size in each.shape], each.dtype) for each in manifest.inputs]
    passes = [registry.from_dict(options) for options in manifest.passes]
    choices = {KEEP: keep_counts(manifest, passes, [pass_.make_rate().peak for pass_ in passes])}
    choices[RANKS] = np.linspace(0, 1, ranked(manifest), dtype=np.float32)
    arrays = {f"batch.{i}": array for i, array in enumerate(batch)} | {f"choice.{k}": v for k, v in choices.items()}
    with io.BytesIO() as sent:
        np.savez(sent, allow_pickle=False, **arrays)
        ran = subprocess.run(
            [sys.executable, os.fspath(PROGRAM), os.fspath(folder)],
            input=sent.getvalue(), capture_output=True, check=False,
        )  # fmt: skip
    if ran.returncode < 0:
        raise TrialError(f"ONNX Runtime crashed (signal {-ran.returncode})")
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise TrialError(short(said[-1]))
