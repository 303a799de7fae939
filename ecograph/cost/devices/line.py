"""What the products of one kind take, as a line: a call, the arithmetic and the bytes moved, each at its rate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np


class Line(NamedTuple):
    """Seconds of a product.

    Attributes:
        call: whatever its size.
        per_flop: for a floating-point operation that is computed.
        per_byte: for a byte that is read or written.
    """

    call: float
    per_flop: float
    per_byte: float

    def seconds(self, flops: float, moved: float) -> float:
        """Returns what a product of so many FLOPs and bytes takes."""
        return self.call + self.per_flop * flops + self.per_byte * moved


def fit(flops: Sequence[float], moved: Sequence[float], seconds: Sequence[float]) -> Line:
    """Returns the line nearest to timings: the sum of squares of its relative errors is the least.

    No share of the time is negative: where arithmetic hides behind memory, or the other way round, its rate is 0.

    Args:
        flops: of each timing; above 0, as everything here.
        moved: bytes.
        seconds: taken.
    """
    # Relative errors: every timing is 1.
    columns: Any = np.array([np.ones(len(seconds)), flops, moved], dtype=float) / np.array(seconds)
    found: list[tuple[float, Line]] = []
    for count in (1, 2, 3):
        for chosen in map(list, combinations(range(3), count)):
            scale = columns[chosen].max(axis=1)
            rates = np.linalg.lstsq((columns[chosen].T / scale), np.ones(len(seconds)), rcond=None)[0] / scale
            if (rates >= 0).all():
                all_rates = np.zeros(3)
                all_rates[chosen] = rates
                found.append((float(np.square(all_rates @ columns - 1).sum()), Line(*map(float, all_rates))))
    return min(found)[1]
