"""One training step and one eval step on zeros, run as a program: whatever happens to it, the caller goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ecograph.export.trainer import OrtTrainer


def main(folder: str) -> None:
    """Takes the two steps, with every site sparse where there are sites."""
    trainer = OrtTrainer(Path(folder))
    batch = [np.zeros([size or 2 for size in each.shape], each.dtype) for each in trainer.manifest.inputs]
    inputs, targets = (batch[:-1], batch[-1]) if trainer.manifest.has_targets else (batch, None)
    for rate in trainer.rates:
        rate.scheduled = True
        rate.set(rate.peak)
    trainer.train_step(*inputs, targets=targets)
    trainer.eval_step(*inputs, targets=targets)


if __name__ == "__main__":
    main(sys.argv[1])
