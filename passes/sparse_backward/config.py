"""The options of the sparse backward, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from ecograph.rewrite.options import (
    PassOptions,
    filter_function,
    one_of,
    share_below_one,
    true_or_false,
    whole_number,
)
from ecograph.schedule import SCHEDULES


@dataclass(frozen=True)
class Options(PassOptions):
    """The options of :class:`SparseBackward`; see there."""

    name: ClassVar[str] = "sparse_backward"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "ssProp, arXiv 2408.12561; for linear layers meProp, arXiv 1706.06197"

    drop: float = 0.8
    _: dataclasses.KW_ONLY
    schedule: Literal["alternate", "constant", "linear", "cosine", "bar"] = "alternate"
    select: Literal["topk", "random"] = "topk"
    unbiased: bool = False
    grads: tuple[str, ...] = ("input", "weight")
    align: int = 1
    min_channels: int = 16
    filter_fn: Callable[[nn.Module, str], bool] | None = None
    skip_first: bool = True
    skip_last: bool = True
    when: Literal["pays", "always"] = "pays"

    def __post_init__(self) -> None:
        """Validates; raises ValueError with the option's name and the fix."""
        if isinstance(self.grads, (str, list)):
            object.__setattr__(self, "grads", (self.grads,) if isinstance(self.grads, str) else tuple(self.grads))
        share_below_one("drop", self.drop, "dense", 0.8)
        one_of("schedule", self.schedule, tuple(SCHEDULES))
        one_of("select", self.select, ("topk", "random"))
        one_of("when", self.when, ("pays", "always"))
        if not isinstance(self.grads, tuple) or not {*self.grads} <= {"input", "weight"} or not self.grads:
            raise ValueError(f"grads={self.grads!r}: give ('input', 'weight'), ('input',) or ('weight',)")
        for name in ("align", "min_channels"):
            whole_number(name, getattr(self, name), 1)
        for name in ("unbiased", "skip_first", "skip_last"):
            true_or_false(name, getattr(self, name))
        if self.unbiased and self.select != "random":
            raise ValueError("unbiased=True: give select='random' too; the top channels are a biased choice")
        filter_function("filter_fn", self.filter_fn)
