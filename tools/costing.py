"""What ``inspect`` estimates a step with: device, precision and optimizer, from names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ecograph.tools.errors import UserError, user_errors

if TYPE_CHECKING:
    from torch import nn

    from ecograph.cost.estimate import Estimate

#: name -> what ``estimate`` takes
OPTIMIZERS: dict[str, Any] = {
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "none": None,
}
OPTIMIZER = "adamw"
PRECISIONS = ("bf16", "fp16")


@dataclass(frozen=True)
class CostOptions:
    """What a step is estimated with.

    Attributes:
        device: a name that ``find_device`` knows.
        amp: ``"bf16"``, ``"fp16"`` or None.
        optimizer: one of ``OPTIMIZERS``.

    Raises:
        UserError: for a name that there is not, with those that there are.
    """

    device: str = "auto"
    amp: str | None = None
    optimizer: str = OPTIMIZER

    def __post_init__(self) -> None:
        from ecograph.cost.devices import find_device

        if self.amp is not None and self.amp not in PRECISIONS:
            raise UserError(f"--amp {self.amp!r}: give {' or '.join(PRECISIONS)}, or leave it out")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"--optimizer {self.optimizer!r}: give one of {', '.join(OPTIMIZERS)}")
        with user_errors("--device: "):
            find_device(self.device)

    def estimate(self, model: nn.Module, example: Any) -> Estimate:
        """Returns what a step of the model costs on a batch like the example.

        Raises:
            ValueError: where the step cannot be recorded.
        """
        from ecograph.cost.estimate import estimate

        return estimate(model, example, device=self.device, amp=self.amp, optimizer=OPTIMIZERS[self.optimizer])

    def about(self) -> str:
        """Returns what the step is, in words."""
        precision = f"forward in {self.amp}" if self.amp else "no autocast"
        return f"{precision}, {'no optimizer' if self.optimizer == 'none' else f'optimizer {self.optimizer}'}"
