"""What is to be reached, and what it is to cost least of."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecograph.loop.stop import Stop

#: What a search can minimize, with the unit of its figures.
QUANTITIES = {"energy": "J", "time": "s", "flops": "FLOPs", "co2": "g CO2", "money": ""}

#: Parts of a metric's name that say which way is better.
_UP = ("accuracy", "acc", "f1", "auc", "precision", "recall", "iou", "dice", "bleu", "score", "psnr")
_DOWN = ("loss", "error", "perplexity", "mse", "mae", "rmse", "nll")


@dataclass(frozen=True)
class Target:
    """A value of the history, and how good it must become: ``"val_accuracy >= 0.97"``.

    Attributes:
        name: such as ``"val_accuracy"``.
        operator: ``">="``, ``">"``, ``"<="`` or ``"<"``.
        number: the value.
    """

    name: str
    operator: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Returns what ``text`` says.

        Raises:
            ValueError: for a text that is no such comparison, and for one that is true of bad values.
        """
        name = text.split()[0] if isinstance(text, str) and text.split() else ""
        for sign in "<>=":
            name = name.partition(sign)[0]
        try:
            found = Stop.parse(text, (name,))
        except ValueError as error:
            says = f'target={text!r} must compare a value with a number, such as "val_accuracy >= 0.97"'
            raise ValueError(says) from error
        made = cls(found.name, found.operator, found.number)
        words = made.name.lower().split("_")
        wrong = _DOWN if made.upwards else _UP
        if any(word in wrong for word in words):
            better, sign = ("higher", ">=") if wrong is _UP else ("lower", "<=")
            fix = f"write {made.name} {sign} {made.number:g}"
            raise ValueError(f"target={text!r}: {made.name} is better the {better} it is: {fix}")
        return made

    @property
    def upwards(self) -> bool:
        """Whether more is better."""
        return self.operator.startswith(">")

    def reached(self, value: float | None) -> bool:
        """Whether a value is good enough."""
        if value is None or not math.isfinite(value):
            return False
        strict = len(self.operator) == 1
        if value == self.number:
            return not strict
        return (value > self.number) == self.upwards

    def shortfall(self, value: float) -> float:
        """Returns how much is missing; below 0 beyond the target. Less is better, whatever the metric."""
        return self.number - value if self.upwards else value - self.number

    def better(self, first: float, second: float | None) -> bool:
        """Whether one value is better than another."""
        return second is None or self.shortfall(first) < self.shortfall(second)

    @property
    def comparison(self) -> str:
        """The comparison, as a loop takes it."""
        return f"{self.name} {self.operator} {self.number:g}"

    def __str__(self) -> str:
        """Returns it as it is written."""
        return self.comparison


def check_quantity(name: str) -> str:
    """Returns the name of what is to be minimized.

    Raises:
        ValueError: where there is no such thing.
    """
    if name not in QUANTITIES:
        raise ValueError(f"minimize={name!r}: give one of {', '.join(QUANTITIES)}")
    return name
