"""How the tables of models are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zoo.counting import Inputs


@dataclass(frozen=True)
class Entry:
    """One real model with random weights.

    Attributes:
        name: how tests call it.
        build: returns the model.
        inputs: returns ``(args, kwargs)`` that fit it.
        real: its Python depends on values, so it cannot run on fake tensors.
        graphs: how many graphs a capture with example inputs gives; None where that may vary.
        unseen: parts of names of the sites that are not found without example inputs, with the reason.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    real: bool = False
    graphs: int | None = 1
    unseen: dict[str, str] | None = None

    def __repr__(self) -> str:
        return self.name


def image(size: int, channels: int = 3, batch: int = 2) -> Callable[[], Inputs]:
    """Returns a maker of a batch of square images."""
    return lambda: ((torch.randn(batch, channels, size, size),), {})


def keywords(**tensors: Any) -> Callable[[], Inputs]:
    """Returns a maker of keyword inputs."""
    return lambda: ((), dict(tensors))
