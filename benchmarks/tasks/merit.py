"""The figure of merit: what a way of training costs, next to dense training that comes as far.

Dense training with less work, its learning-rate schedule stretched over it, is a curve: quality against cost. A method
is worth its while where it lies to the left of that curve: where it reaches a quality for less than dense training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student
from sklearn.isotonic import IsotonicRegression

#: seed -> (cost, value)
Point = Mapping[int, tuple[float, float]]


@dataclass(frozen=True)
class Merit:
    """Cost of a way at equal quality, in times of the dense frontier's.

    Attributes:
        ratio: less than 1 where the way is cheaper.
        low: of the 95% interval over seeds.
        high: of it.
        bound: ``""``; ``"above"`` where the way is better than all of the frontier, so that it may be cheaper still;
            ``"below"`` where it is worse than all of it, so that it may be dearer still.
    """

    ratio: float
    low: float
    high: float
    bound: str = ""

    @property
    def verdict(self) -> str:
        """In plain words."""
        if self.bound == "below":
            if self.low > 1:
                return "does not pay: worse than the least dense training that was tried"
            return "these seeds cannot tell"  # it took less, and is worse: nobody knows what that is worth
        if self.high < 1:
            return "pays"
        if self.low > 1 and self.bound != "above":
            return "does not pay"
        return "these seeds cannot tell"

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types; None for what is not finite."""
        found = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(self).items()}
        return found | {"verdict": self.verdict}


def merit(way: Point, frontier: Sequence[Point], *, higher_is_better: bool) -> Merit | None:
    """Returns the figure of merit with a 95% interval; None where there are no runs to compare.

    The interval is from the jackknife over seeds, paired: a seed that is left out is left out of the way and of the
    frontier, since both began with the same weights and saw the same batches. With Student's t for as many seeds.

    Args:
        way: its runs.
        frontier: those of dense training, a point for each amount of work.
        higher_is_better: of the value.
    """
    seeds = sorted(set(way).intersection(*frontier)) if frontier else []
    if not seeds or len(frontier) < 2:
        return None
    sign = 1.0 if higher_is_better else -1.0
    whole, bound = _log_ratio(way, frontier, seeds, sign)
    if len(seeds) < 2:
        return Merit(math.exp(whole), 0.0, math.inf, bound)
    count = len(seeds)
    left = [_log_ratio(way, frontier, [s for s in seeds if s != out], sign)[0] for out in seeds]
    pseudo = [count * whole - (count - 1) * each for each in left]
    error = stdev(pseudo) / math.sqrt(count)
    reach = float(student.ppf(0.975, count - 1)) * error
    return Merit(math.exp(whole), math.exp(whole - reach), math.exp(whole + reach), bound)


def over_tasks(merits: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Merit:
    """Returns the geometric mean of a way's figures of merit on several tasks, as JSON types, with its interval.

    The tasks' errors are independent, since no two share data; Student's t is for the seeds of all of them.

    Args:
        merits: as ``Merit.to_dict`` gives them.
        seeds: how many, of each.
    """
    count = len(merits)
    middle = mean(math.log(each["ratio"]) for each in merits)
    bounds = {each["bound"] for each in merits} - {""}
    bound = bounds.pop() if len(bounds) == 1 else ""  # what is more on one task and less on another, is neither
    if min(seeds) < 2 or any(each["high"] is None for each in merits):
        return Merit(math.exp(middle), 0.0, math.inf, bound)
    times = [float(student.ppf(0.975, each - 1)) for each in seeds]
    errors = [math.log(each["high"] / each["ratio"]) / t for each, t in zip(merits, times, strict=True)]
    reach = float(student.ppf(0.975, sum(seeds) - count)) * math.hypot(*errors) / count
    return Merit(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), bound)


def _log_ratio(way: Point, frontier: Sequence[Point], seeds: Sequence[int], sign: float) -> tuple[float, str]:
    """Returns the log of the ratio of costs at the way's mean value, and whether that is beyond the frontier's ends."""
    costs = np.log([mean(point[seed][0] for seed in seeds) for point in frontier])
    values = np.array([sign * mean(point[seed][1] for seed in seeds) for point in frontier])
    order = np.argsort(costs)
    # More work does no harm, so that a dip is noise.
    costs, values = costs[order], IsotonicRegression().fit_transform(costs[order], values[order])
    cost = math.log(mean(way[seed][0] for seed in seeds))
    value = sign * mean(way[seed][1] for seed in seeds)
    if value > values[-1]:
        return cost - float(costs[np.argmax(values >= values[-1])]), "above"
    if value < values[0]:
        return cost - float(costs[0]), "below"
    return cost - _cost_at(value, costs, values), ""


def _cost_at(value: float, costs: Any, values: Any) -> float:
    """Returns the log cost at which the frontier reaches a value: the least of them, where it is level."""
    at = int(np.argmax(values >= value))
    if at == 0 or values[at] == values[at - 1]:
        return float(costs[at])
    part = (value - values[at - 1]) / (values[at] - values[at - 1])
    return float(costs[at - 1] + part * (costs[at] - costs[at - 1]))
