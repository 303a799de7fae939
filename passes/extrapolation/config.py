"""The options of the extrapolation, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ecograph.rewrite.options import PassOptions, one_of, whole_number

DIRECTIONS = ("past", "noise", "local")


@dataclass(frozen=True)
class Options(PassOptions):
    """The options of :class:`Extrapolate`; see there."""

    name: ClassVar[str] = "extrapolation"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "Extrapolation for Large-batch Training in Deep Learning, arXiv 2006.05720"

    # No radius suits every training, so it has to be given; None is there to be told so in a sentence.
    radius: float | None = None
    _: dataclasses.KW_ONLY
    direction: Literal["past", "noise", "local"] = "past"
    until: int | float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Validates; raises ValueError with the option's name and the fix."""
        check_radius(self.radius)
        one_of("direction", self.direction, DIRECTIONS)
        _check_until(self.until)
        whole_number("seed", self.seed, 0)


def check_radius(value: Any) -> None:
    """Raises ValueError unless ``value`` is a finite number from 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(
            f"radius={value!r}: give how far ahead of the weights gradients are computed, a finite number from 0 "
            "(nowhere); a first try is the learning rate of SGD, or 0.01 for direction='noise'"
        )


def _check_until(value: Any) -> None:
    fits = value is None or (
        not isinstance(value, bool)
        and ((isinstance(value, int) and value >= 1) or (isinstance(value, float) and 0 < value <= 1))
    )
    if not fits:
        raise ValueError(
            f"until={value!r}: give a number of epochs, 1 or more; or a share of the training, above 0.0 up to 1.0; "
            "or None, for all of it"
        )
