"""Gaussian noise that depends on what it is for, and on nothing else.

From a counter-based generator (Philox) on the CPU, whatever device the parameters are on: every rank, a resumed run and
another device draw the same numbers, no generator that training uses moves on, and there is no state to keep. At some
40 million numbers per second and core this takes little next to the epoch that is skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def standard_normal(shape: Sequence[int], dtype: torch.dtype, *, seed: int, epoch: int, name: str) -> Tensor:
    """Returns independent numbers from N(0, 1), on the CPU.

    Args:
        shape: of the result.
        dtype: float32 or float64.
        seed: of the pass.
        epoch: that is skipped.
        name: of the parameter.
    """
    digest = hashlib.sha256(f"gradsamp noise {seed} {epoch} {name}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    kind = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=kind))
