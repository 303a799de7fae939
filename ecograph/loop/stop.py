"""When to end training before its last epoch: `val_accuracy >= 0.98`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Stop:
    """A comparison of a value of the history with a number.

    Attributes:
        name: of a value that every epoch has: "train_loss", "val_loss", "val_accuracy".
        operator: ">=", "<=", ">" or "<".
        number: the target.
    """

    name: str
    operator: str
    number: float

    @classmethod
    def parse(cls, text: str, values: tuple[str, ...]) -> Stop:
        """Return what `text` says.

        Args:
            text: such as "val_accuracy >= 0.98".
            values: what can be compared.

        Raises:
            ValueError: for text that is no such comparison, and for a value that there is not.
        """
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        try:
            number = float(match[3]) if match else None
        except ValueError:
            number = None
        if match is None or number is None:
            raise ValueError(f'stop={text!r} must compare a value with a number, such as "val_loss <= 0.1"')
        if match[1] not in values:
            hint = '; for an accuracy, give metric="accuracy"' if "accuracy" in match[1] else ""
            raise ValueError(f"stop={text!r}: there is no {match[1]}; there are {', '.join(values)}{hint}")
        return cls(match[1], match[2], number)

    def of(self, value: str) -> str:
        """Return the expression that compares `value`."""
        return f"{value} {self.operator} {self.number!r}"
