"""A training without its loop, as names and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ecograph.tools.data.loaders import Batching


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a loop is to be called with.

    Attributes:
        model: SPEC.
        data: SPEC.
        channels_last: keep images in the memory format in which convolutions are fastest.
        skip: layers that the passes leave alone.
        weights: a file with a state_dict to begin from; None for fresh weights.
        freeze: layers, or modules with all that is in them, that are not trained.
        batching: how batches are made.
        loss: name of the loss; None for the one that fits the data.
        optimizer: its name.
        optimizer_options: by torch's names, such as lr.
        schedule: name of the learning-rate schedule.
        schedule_options: by torch's names.
        passes: those that rewrite the model.
        seed: of initial weights, of the order of samples, and of all that draws random numbers.
        device: as ``ranks.find_device`` takes it.
    """

    model: str
    data: str
    channels_last: bool = False
    skip: tuple[str, ...] = ()
    weights: str | None = None
    freeze: tuple[str, ...] = ()
    batching: Batching = field(default_factory=Batching)
    loss: str | None = None
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "none"
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    passes: Sequence[Any] = ()
    seed: int = 0
    device: str = "auto"
