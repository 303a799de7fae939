"""Numbers that the loop keeps while it trains: means over samples, time and energy, and the accuracy."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, float32, float64

from ecograph.cost.energy import Energy
from ecograph.cost.meter import Part, Window
from ecograph.cost.meter.used import total

if TYPE_CHECKING:
    from ecograph.loop.distributed.alone import Alone


class Mean:
    """The mean of a number over the samples of many batches.

    The sum stays on the device of the numbers added, in double precision where the device has it: adding
    waits for nothing, `mean` waits once.
    """

    def __init__(self) -> None:
        """Start with no samples."""
        self._sum: Tensor | float = 0.0
        self._samples = 0

    def add(self, value: Tensor | float, samples: int) -> None:
        """Add the mean `value` of a batch of `samples`.

        Raises:
            ValueError: if `value` is not a single number.
        """
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"a loss or metric has shape {tuple(value.shape)} where one number per batch is needed: "
                    'take its mean, or reduction="mean"'
                )
            value = value.detach().reshape(()).to(float32 if value.device.type == "mps" else float64)
        elif not isinstance(value, int | float):
            raise ValueError(f"a loss or metric is {value!r} where a number is needed")
        if isinstance(value, Tensor) and isinstance(self._sum, Tensor):
            self._sum = self._sum.to(value)  # from a checkpoint it comes on the CPU
        self._sum = self._sum + value * samples
        self._samples += samples

    def all_reduce(self, device: torch.device) -> None:
        """Take in the samples of all processes.

        Every process adds the same numbers in the same order: what they decide by the mean, they decide alike.

        Args:
            device: of this process, on which they exchange numbers.
        """
        kind = float32 if device.type == "mps" else float64
        own = torch.stack([torch.as_tensor(each, dtype=kind, device=device) for each in (self._sum, self._samples)])
        found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(found, own)
        self._sum, samples = torch.stack(found).sum(0)
        self._samples = round(float(samples))

    def mean(self) -> float | None:
        """Return the mean, or None if nothing was added."""
        return float(self._sum) / self._samples if self._samples else None

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and the count so far."""
        return {"sum": self._sum, "samples": self._samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a sum and a count."""
        self._sum, self._samples = state["sum"], state["samples"]


class Clock:
    """The seconds and the energy since it was made, with those before a run was resumed."""

    def __init__(self) -> None:
        """Start at 0."""
        self._started = time.perf_counter()
        self._window = Window()
        self._before: list[Part] = []

    def seconds(self) -> float:
        """Return the wall time so far."""
        return time.perf_counter() - self._started

    def energy(self, ranks: Alone | None = None) -> Energy:
        """Return the energy so far and its source; see `ecograph.measure` for what is in it.

        Args:
            ranks: all processes that train, to add up what each measured: its own devices, and the first one on each
                machine the CPU. All must call this together.
        """
        own = self._parts()
        return total(own if ranks is None else [part for parts in ranks.everyone(own) for part in parts])

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds and the energy so far."""
        return {"seconds": self.seconds(), "parts": [asdict(part) for part in self._parts()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._started = time.perf_counter() - state["seconds"]
        self._window = Window()
        # A checkpoint from before energy was measured tells nothing of it: then the sum is unknown too.
        unknown = [{"domain": "before", "joules": None, "source": "none"}]
        self._before = [Part(**part) for part in state.get("parts", unknown)]

    def _parts(self) -> list[Part]:
        return [*self._before, *self._window.parts]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of targets that the outputs predict, as a number on their device.

    Args:
        outputs: scores of shape (N, C, ...), the class in dimension 1 as in `cross_entropy`; or logits of two
            classes, in the shape of `targets`.
        targets: class numbers of shape (N, ...); or probabilities in the shape of `outputs`. A class number
            below zero, such as the usual -100, marks a target that does not count.

    Raises:
        ValueError: for any other shapes.
    """
    if targets.ndim == outputs.ndim - 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]:
        counted = targets >= 0
        hits = (outputs.argmax(dim=1) == targets) & counted
        return hits.sum() / counted.sum().clamp(min=1)
    if (
        targets.shape == outputs.shape
        and outputs.ndim >= 2
        and outputs.shape[1] > 1
        and targets.is_floating_point()
    ):
        return (outputs.argmax(dim=1) == targets.argmax(dim=1)).float().mean()
    if targets.shape == outputs.shape:
        return ((outputs > 0) == (targets > 0.5)).float().mean()
    raise ValueError(
        f'metric="accuracy" cannot compare outputs of shape {tuple(outputs.shape)} with targets of shape '
        f"{tuple(targets.shape)}: give TrainingLoop a function, metric=lambda outputs, targets: ..."
    )
