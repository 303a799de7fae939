"""What a training step is told about its sites: how many channels each keeps, and random numbers to rank them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ecograph.export.sites import ExportedSite


def keep_counts(sites: Sequence[ExportedSite], passes: Sequence[Any], rates: Sequence[float]) -> np.ndarray[Any, Any]:
    """Returns how many channels, per group, each site keeps; the graph's input ``ecograph.keep``.

    Args:
        sites: of the graph.
        passes: of the export.
        rates: the drop rate of each.
    """
    kept = []
    for site in sites:
        rate = rates[site.pass_index]
        kept.append(passes[site.pass_index].kept(site.channels, rate) if rate else site.channels)
    return np.array(kept, np.int64)


def ranked(sites: Sequence[ExportedSite]) -> int:
    """Returns how many channels are chosen at random: the length of the graph's input ``ecograph.ranks``."""
    return sum(site.groups * site.channels for site in sites if site.random)
