"""The options of GradSamp, and nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from ecograph.rewrite.options import PassOptions, one_of, true_or_false, whole_number


@dataclass(frozen=True)
class Options(PassOptions):
    """The options of :class:`GradSamp`; see there."""

    name: ClassVar[str] = "gradsamp"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "GradSamp, arXiv 2406.07332"

    every: int | None = None
    _: dataclasses.KW_ONLY
    probability: float | None = None
    granularity: Literal["tensor", "channel", "model", "element"] = "tensor"
    mode: Literal["gaussian", "extrapolate", "none"] = "gaussian"
    warmup: int = 0
    cooldown: int = 0
    advance_lr: bool = True
    snapshot: Literal["device", "cpu"] = "device"
    seed: int = 0

    def __post_init__(self) -> None:
        """Validates; raises ValueError with the option's name and the fix."""
        if self.every is not None and self.probability is not None:
            raise ValueError(
                f"every={self.every!r} and probability={self.probability!r} are both given: skip epochs at regular "
                "intervals or at random, and leave the other out"
            )
        if self.probability is None:
            if self.every is None:
                object.__setattr__(self, "every", 4)
            whole_number("every", self.every, 1)
            if self.every is not None and self.every < 3:
                raise ValueError(
                    f"every={self.every}: give 3 or more; the change that is sampled from takes two trained epochs"
                )
        elif (
            isinstance(self.probability, bool)
            or not isinstance(self.probability, (int, float))
            or not 0 < self.probability <= 1
        ):
            raise ValueError(f"probability={self.probability!r}: give a number above 0, up to 1, such as 0.5")
        one_of("granularity", self.granularity, ("tensor", "channel", "model", "element"))
        one_of("mode", self.mode, ("gaussian", "extrapolate", "none"))
        for name in ("warmup", "cooldown", "seed"):
            whole_number(name, getattr(self, name), 0)
        true_or_false("advance_lr", self.advance_lr)
        one_of("snapshot", self.snapshot, ("device", "cpu"))
