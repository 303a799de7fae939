"""What a task is: a model, data without end, a recipe for training, and one figure that says how well it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Task:
    """A training, and how its outcome is measured.

    Attributes:
        name: key in ``TASKS``.
        metric: what ``evaluate`` returns, for people.
        decimals: how many of its decimals are shown.
        higher_is_better: whether more of it is better.
        epochs: into which the training is divided; a pass's schedule changes between them.
        steps_per_epoch: optimizer steps.
        settings: all that makes a run what it is, as JSON types; runs with other settings cannot be compared.
        build: makes a model, from torch's global random state.
        batches: the training batches for a seed, without end.
        loss: of an output and a target.
        optimizer: makes it for a model, with its peak learning rate.
        clip: the gradient's largest norm, or None.
        evaluate: measures a trained model on data that it has not seen.
    """

    name: str
    metric: str
    decimals: int
    higher_is_better: bool
    epochs: int
    steps_per_epoch: int
    settings: dict[str, Any]
    build: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module], Optimizer]
    clip: float | None
    evaluate: Callable[[nn.Module], float]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def example(self) -> Tensor:
        """Returns inputs of a training batch."""
        return next(self.batches(0))[0]
