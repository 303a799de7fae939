"""What a change saves and what it costs, in seconds on a device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ecograph.cost.devices import Roofline
from ecograph.cost.steps.op import Op

#: What is saved must be this many times what is paid for it: predictions of both are off by about a fifth.
MARGIN = 1.25


@dataclass(frozen=True)
class Verdict:
    """What a change to a step does to its time.

    Attributes:
        saves: seconds that products, or whatever else shrinks, take less.
        costs: seconds that all else takes more.
    """

    saves: float
    costs: float

    @property
    def pays(self) -> bool:
        """Whether more is saved than paid, by a margin."""
        return self.saves > MARGIN * self.costs

    @property
    def why_not(self) -> str:
        """The reason to leave it, ``""`` where it pays."""
        if self.pays:
            return ""
        # Within the margin it may as well pay.
        pays = "does not pay" if self.saves <= self.costs else "may not pay"
        return f"{pays}: saves {_in_words(self.saves)}, costs {_in_words(self.costs)}"

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(self.saves + other.saves, self.costs + other.costs)


def compare(before: Iterable[Op], after: Iterable[Op], prices: Roofline) -> Verdict:
    """Returns what ``after`` saves against ``before``: in products, and in all else, either of which may grow."""
    gains = [
        first - second for first, second in zip(_seconds(before, prices), _seconds(after, prices), strict=True)
    ]  # fmt: skip
    return Verdict(saves=sum(gain for gain in gains if gain > 0), costs=sum(-gain for gain in gains if gain < 0))


def _seconds(ops: Iterable[Op], prices: Roofline) -> tuple[float, float]:
    """Returns the seconds of products, and of all else."""
    products = others = 0.0
    for op in ops:
        if op.flops:
            products += prices.seconds(op)
        else:
            others += prices.seconds(op)
    return products, others


def _in_words(seconds: float) -> str:
    if seconds == 0:
        return "nothing"
    rounded = float(f"{seconds:.2g}")  # "190 ms" and not "1.9e+02 ms"
    return f"{rounded * 1e3:g} ms" if rounded >= 1e-4 else f"{rounded * 1e6:g} us"
