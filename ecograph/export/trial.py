"""A step with each training graph and an eval step, in a process of their own, before anything is published.

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
from ecograph.export.slices import STARTS

#: The other process: it runs by its path, because importing ecograph, hence torch, would take it seconds.
PROGRAM = Path(__file__).with_name("trial_step.py")


class TrialError(Exception):
    """The step failed; the message is what ONNX Runtime said, in one line."""


def take_steps(folder: Path, manifest: Manifest, batch_size: int = 2) -> None:
    """Takes the steps with the files of an export: zeros as the batch, every site sparse, slices at the first unit.

    Args:
        folder: with all files.
        manifest: what is in them.
        batch_size: of the batch, where it may vary.

    Raises:
        TrialError: where a step fails or the process crashes.
    """
    batch = [np.zeros([size or batch_size for size in each.shape], each.dtype) for each in manifest.inputs]
    passes = [registry.from_dict(options) for options in manifest.passes]
    peaks = [pass_.make_rate().peak for pass_ in passes]
    arrays = {f"batch.{i}": array for i, array in enumerate(batch)}
    for name, sites in manifest.graphs().items():
        arrays[f"{name}/{KEEP}"] = keep_counts(sites, passes, peaks)
        arrays[f"{name}/{RANKS}"] = np.linspace(0, 1, ranked(sites), dtype=np.float32)
        arrays[f"{name}/{STARTS}"] = np.zeros(len(manifest.slices), np.int64)
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
