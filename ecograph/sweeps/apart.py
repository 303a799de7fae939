"""Several models side by side, as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


class Apart(nn.Module):
    """A model for each task, side by side. One that has reached its target rests: it costs nothing from then on.

    Args:
        models: task -> what returns a dict with this task's output.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)
        self.resting: set[str] = set()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Has all but one of them rest for a while."""
        before, self.resting = self.resting, set(self.models) - {name}
        try:
            yield
        finally:
            self.resting = before

    def forward(self, *inputs: Any) -> dict[str, Any]:
        """Returns the outputs of those that do not rest, by task."""
        outputs: dict[str, Any] = {}
        for name, model in self.models.items():
            if name not in self.resting:
                outputs[name] = model(*inputs)[name]
        return outputs
