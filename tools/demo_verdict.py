"""What the demo's figures say, in plain words, and no more than they can say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecograph.tools.demo_report import Report

#: Two-sided 95% quantiles of Student's t by degrees of freedom: with few seeds a difference must be large
#: to count.
_T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 10: 2.23}
_T95_BEYOND = 2.0

#: A difference that is known to be within this many percentage points is called none.
SAME = 0.5


@dataclass(frozen=True)
class Difference:
    """How far two arms are apart in accuracy, in percentage points.

    Attributes:
        points: mean over the seeds.
        margin: half the width of its 95% interval; infinite for a single seed.
    """

    points: float
    margin: float

    @property
    def clear(self) -> bool:
        """Whether it is more than luck."""
        return abs(self.points) > self.margin

    @property
    def none(self) -> bool:
        """Whether it is known to be small."""
        return not self.clear and abs(self.points) + self.margin <= SAME

    def __str__(self) -> str:
        """Returns it for people: ``"-0.37 ± 0.25 points"``."""
        return f"{self.points:+.2f} ± {self.margin:.2f} points"


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Returns how far the first arm's accuracies, as shares, are above the second's.

    Arms with the same seed share initial weights, order of batches and test images, so the difference is
    taken seed by seed: a paired t-test.
    """
    points = [100 * (a - b) for a, b in zip(first, second, strict=True)]
    count = len(points)
    if count == 1:
        return Difference(points[0], math.inf)
    return Difference(mean(points), _T95.get(count - 1, _T95_BEYOND) * stdev(points) / math.sqrt(count))


def verdict(report: Report) -> list[str]:
    """Returns a sentence or two on each question: what did it save, what did it cost, was it worth it."""
    dense, sparse, control = report.dense, report.sparse, report.control
    if sparse.arm.flops == dense.arm.flops:
        return [
            "With one epoch the alternate schedule is dense throughout: nothing was saved, the three arms "
            "are the same training. Give --epochs 2 or more."
        ]
    lines = [
        f"Sparse backward took {sparse.arm.flops / dense.arm.flops:.0%} of dense's FLOPs and "
        f"{sparse.cpu_seconds / dense.cpu_seconds:.0%} of its CPU time; the control "
        f"{control.arm.flops / dense.arm.flops:.0%} and {control.cpu_seconds / dense.cpu_seconds:.0%}."
    ]
    if report.seeds == 1:
        return [*lines, "One seed cannot tell a difference in accuracy from luck: give --seeds 3 or more."]
    lines.append(_against_dense(difference(sparse.accuracies, dense.accuracies), report.seeds))
    instead = f"{count(control.arm.epochs, 'epoch')} in place of {dense.arm.epochs}"
    lines.append(_against_control(difference(sparse.accuracies, control.accuracies), report.seeds, instead))
    if difference(dense.accuracies, control.accuracies).none:
        lines.append(
            "Dense training gained nothing from its last epochs either, so this setting does not show what "
            "skipped work costs: try fewer --epochs."
        )
    return lines


def _against_dense(gap: Difference, seeds: int) -> str:
    if gap.clear:
        return f"Its accuracy is {'above' if gap.points > 0 else 'below'} dense's: {gap}."
    if gap.none:
        return f"Its accuracy is that of dense training: {gap}."
    return f"Whether it cost accuracy, {seeds} seeds cannot tell: {gap} from dense. More --seeds would."


def _against_control(gap: Difference, seeds: int, instead: str) -> str:
    if gap.clear and gap.points < 0:
        return (
            f"The control did better: sparse backward is {gap} from it. On this task, train {instead} "
            "and leave the backward dense."
        )
    if gap.clear:
        return (
            f"Sparse backward did better than the control, by {gap}. On this task, it is worth more than "
            f"training {instead}."
        )
    if gap.none:
        return (
            f"The control reached the same accuracy: sparse backward is {gap} from it. On this task, "
            f"training {instead} is as good."
        )
    return f"Whether it beats training {instead}, {seeds} seeds cannot tell: {gap} from the control."


def count(number: int, thing: str) -> str:
    """Returns ``"1 seed"`` or ``"3 seeds"``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
