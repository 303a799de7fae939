"""Checkpoints of a training run: written so that a kill at any moment leaves a good one, and resumed bit for bit.

`file.py` writes one file, `folder.py` keeps the last few of them, `random_state.py` and `position.py` know what besides
the weights must be as it was, `fingerprint.py` refuses what belongs to another run, and `Checkpoints` is what the loop
uses.
"""

from ecograph.loop.checkpoints.checkpoints import Checkpoints, Interrupted
from ecograph.loop.checkpoints.file import CheckpointError

__all__ = ["CheckpointError", "Checkpoints", "Interrupted"]
