"""The learning rate of a training: up, and down to zero."""

from __future__ import annotations

import math


def learning_rate(step: int, *, total: int) -> float:
    """Returns the share of the peak learning rate at a step: up over a tenth, then down along a cosine.

    It spans ``total`` steps, so a training with fewer of them has the whole of it too, and also ends at zero.
    """
    warmup = max(1, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2
