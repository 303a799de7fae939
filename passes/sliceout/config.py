"""The options of SliceOut, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from ecograph.rewrite.options import PassOptions, filter_function, one_of, share_below_one, whole_number
from ecograph.schedule import SCHEDULES


@dataclass(frozen=True)
class Options(PassOptions):
    """The options of :class:`SliceOut`; see there."""

    name: ClassVar[str] = "sliceout"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "SliceOut, arXiv 2007.10909"

    rate: float = 0.5
    _: dataclasses.KW_ONLY
    normalization: Literal["flow", "probability"] = "flow"
    starts: Literal["grid", "blocks", "any"] = "grid"
    align: int = 8
    min_width: int = 32
    max_scale: float = 4.0
    schedule: Literal["alternate", "constant", "linear", "cosine", "bar"] = "constant"
    update: Literal["autograd", "slice"] = "autograd"
    when: Literal["pays", "always"] = "pays"
    seed: int = 0
    filter_fn: Callable[[nn.Module, str], bool] | None = None

    def __post_init__(self) -> None:
        """Validates; raises ValueError with the option's name and the fix."""
        share_below_one("rate", self.rate, "whole", 0.5)
        one_of("normalization", self.normalization, ("flow", "probability"))
        one_of("starts", self.starts, ("grid", "blocks", "any"))
        one_of("schedule", self.schedule, tuple(SCHEDULES))
        one_of("update", self.update, ("autograd", "slice"))
        one_of("when", self.when, ("pays", "always"))
        for name in ("align", "min_width"):
            whole_number(name, getattr(self, name), 1)
        whole_number("seed", self.seed, 0)
        scale = self.max_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 <= scale < float("inf"):
            raise ValueError(f"max_scale={scale!r}: give a number, 1 or more, such as 4.0")
        filter_function("filter_fn", self.filter_fn)
