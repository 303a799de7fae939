"""What must be known of a training loop to make what it is called with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ecograph.tools.ranks import rank, world_size
from ecograph.tools.training.schedules import LrStep

if TYPE_CHECKING:
    from ecograph.loop import TrainingLoop


@dataclass(frozen=True)
class Course:
    """The course that a loop takes.

    Attributes:
        epochs: how many; None where that is not known.
        lr_step: when it advances the learning-rate schedule; None where that is not known.
        accumulate: batches per optimizer step.
        own_loss: whether the model may return its own loss.
        distributed: whether it shares out the data between processes that torchrun started.
        amp: the precision of the forward under autocast; None without.
        evaluate: the loop's function that evaluates a model, for a trial before training; None where it has none.
    """

    epochs: int | None
    lr_step: LrStep | None
    accumulate: int = 1
    own_loss: bool = False
    distributed: bool = False
    amp: str | None = None
    evaluate: Callable[..., Any] | None = None

    @classmethod
    def of(cls, loop: TrainingLoop) -> Course:
        """Returns the course of a loop that is to be run here."""
        distributed = loop.distributed is not None
        alone = replace(loop, distributed=None) if distributed else loop  # evaluates without the other processes
        evaluate = alone.train.__globals__["evaluate"]
        if callable(loop.metric):
            evaluate = partial(evaluate, metric=loop.metric)
        own_loss = loop.batch == "dict"
        return cls(loop.epochs, loop.lr_step, loop.accumulate, own_loss, distributed, loop.amp, evaluate)

    def steps_per_epoch(self, loader: Any) -> int | None:
        """Returns the optimizer steps in an epoch; None for a loader without a length."""
        if self.distributed:
            loader = _share_of(loader)
        try:
            return math.ceil(len(loader) / self.accumulate)
        except TypeError:
            return None


def _share_of(loader: Any) -> Any:
    """Returns this process's share of a loader, as the loop will make it; it asks no other process."""
    from ecograph.loop.distributed.alone import Alone
    from ecograph.loop.distributed.share import share

    found = Alone()
    found.rank, found.count = rank(), world_size()
    return share(loader, found, pad=True)
