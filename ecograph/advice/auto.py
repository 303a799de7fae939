"""``optimize(recipe="auto")``: the best exact switches, put on the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ecograph.advice.advise import last, measured
from ecograph.advice.setting import Setting
from ecograph.record import Record

#: Seconds of measuring where nobody has asked for advice yet.
SECONDS = 15.0


@dataclass(frozen=True)
class Switches:
    """What advice found best among the exact settings.

    Attributes:
        setting: all of its switches.
        gain: its time next to plain training's.
        optimizer: as it is written in code.
    """

    setting: Setting
    gain: float
    optimizer: str

    @property
    def of_the_model(self) -> tuple[str, ...]:
        """Those that a model can carry."""
        return ("channels_last",) * self.setting.channels_last + ("compile",) * self.setting.compile

    def apply(self, model: nn.Module, record: Record) -> None:
        """Switches on what a model can carry, and notes what is the user's to switch: threads, the optimizer."""
        if self.setting.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.setting.compile:
            model.compile()
        record.switched = self.of_the_model
        if self.of_the_model:
            title = Setting(channels_last=self.setting.channels_last, compile=self.setting.compile).title
            record.notes.append(f"recipe auto switched on {title}: exact, and measured on this machine")
        rest = Setting(threads=self.setting.threads, fused=self.setting.fused)
        for line in rest.code(optimizer=self.optimizer):
            record.notes.append(f"recipe auto: this too makes a step cheaper here, and is yours to write: {line}")
        if not self.of_the_model and rest == Setting():
            record.notes.append("recipe auto: of the exact switches none makes a step cheaper here")


def find_switches(model: nn.Module, example_inputs: Any) -> Switches:
    """Returns the best exact switches for a model: from the last advice about it, or measured now.

    Raises:
        ValueError: for a model and inputs on which no step can be taken.
    """
    if example_inputs is None:
        raise ValueError(
            "recipe='auto' measures steps, so it needs example_inputs: give a batch, or name another recipe"
        )
    advice = last(model) or measured(
        model, example_inputs, seconds=SECONDS, compiled=False, approximate=False, precision=False, batches=False
    )
    return Switches(advice.exact, advice.row(advice.exact).time_ratio or 1.0, advice.optimizer)
