"""Gaussian noise that is a function of what it is for: nothing is drawn from a generator that anybody else uses."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from ecograph.passes.extrapolation.sharding import full, is_sharded, shard_like


def noise(weight: Tensor, *, seed: int, step: int, index: int) -> Tensor:
    """Returns noise for a parameter: independent Gaussian numbers, as large as its weights are.

    Their standard deviation is the root mean square of the weights. Every rank draws the same, and so does a resumed
    run, on the same kind of device. Of a sharded parameter each rank draws the whole and keeps its part.

    Args:
        weight: the parameter.
        seed: of the pass.
        step: optimizer steps so far.
        index: which parameter it is, counted in the optimizer.

    Returns:
        A tensor of the weight's shape, sharded as it is.
    """
    dtype = weight.dtype if weight.dtype.itemsize >= 4 else torch.float32  # randn is coarse in half precision
    generator = torch.Generator(weight.device).manual_seed(_hash(seed, step, index))
    drawn = torch.randn(weight.shape, generator=generator, dtype=dtype, device=weight.device)
    size = full(torch.linalg.vector_norm(weight, dtype=dtype)) / math.sqrt(max(weight.numel(), 1))
    drawn.mul_(size)  # a tensor: nobody waits for the device
    return shard_like(drawn, weight) if is_sharded(weight) else drawn


def _hash(*key: Any) -> int:
    digest = hashlib.sha256(f"extrapolation {key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # 63 bits: what every generator takes
