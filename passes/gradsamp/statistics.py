"""Mean and spread of the change of the weights over an epoch.

The spread is the standard deviation of the population, divided by n: the elements at hand are all there are, and a
single one has no spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def moments(change: Tensor, granularity: str) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of a tensor's change.

    Args:
        change: of any shape; float32 or float64.
        granularity: ``"tensor"``: one mean and spread. ``"channel"``: one for each index of the first dimension; for
            the whole tensor where such a channel has one element, which has no spread. ``"element"``: every element is
            its own mean, and the spread is the tensor's.

    Returns:
        Two tensors that broadcast to the shape of ``change``.
    """
    if granularity == "channel" and change.ndim > 1 and change.numel() > change.shape[0]:
        spread, mean = torch.std_mean(change, dim=tuple(range(1, change.ndim)), correction=0, keepdim=True)
        return mean, spread
    spread, mean = torch.std_mean(change, correction=0)
    return (change if granularity == "element" else mean), spread


def joint_moments(changes: Callable[[], Iterable[Tensor]]) -> tuple[float, float]:
    """Returns mean and standard deviation over the elements of all tensors together.

    Args:
        changes: gives them one after another; called twice, so that they need not be held all at once.
    """
    count, total = 0, 0.0
    for change in changes():
        count += change.numel()
        total += float(change.sum())
    mean = total / max(count, 1)
    squares = sum(float((change - mean).square().sum()) for change in changes())
    return mean, math.sqrt(squares / max(count, 1))
