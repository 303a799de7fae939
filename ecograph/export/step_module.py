"""A training step's forward as one pure function: inputs, targets and statistics in; loss, output and statistics out.

The starts of slices come in too, where the model has any.

A batch norm changes its running statistics in place, which a graph cannot do. So they are inputs and outputs here: the
trainer puts the new ones where the old ones were.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ecograph.export.losses import Loss, own_loss, scores
from ecograph.export.slices import Slices

#: What the model is called within the step; the exporter's names of parameters begin with it.
MODEL = "model"
#: The count that a batch norm keeps beside its statistics; it only counts training steps.
COUNT = "num_batches_tracked"


class StepForward(nn.Module):
    """The model and its loss.

    Args:
        model: in training or in eval mode.
        loss: what is minimized.
        with_output: return the model's output too.
        slices: of the model.
    """

    def __init__(self, model: nn.Module, loss: Loss, slices: Slices, *, with_output: bool = False) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.slices = slices
        self.with_output = with_output

    def forward(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        targets: list[Tensor],
        starts: list[Tensor],
        statistics: dict[str, Tensor],
    ) -> tuple[Any, ...]:
        """Returns the loss, then the output where asked for, then the statistics after the step."""
        # Copies: what comes in must not change.
        held = {name: value.clone() for name, value in statistics.items()}
        counts = {name: torch.zeros((), dtype=torch.int64) for name in counted(self.model)}
        with self.slices.started_at(starts[0]) if starts else nullcontext():
            output = torch.func.functional_call(self.model, {**held, **counts}, args, kwargs)
        if self.loss.function is None:
            loss = own_loss(output)
            shown = loss.reshape(1) if self.with_output else None
        else:
            loss = self.loss.function(output, targets[0])
            if not isinstance(loss, Tensor) or loss.dim() != 0:
                raise ValueError(f"the loss function returns {_shape(loss)}, not a scalar: let it return the mean")
            shown = scores(output) if self.with_output else None
        return (loss, *([] if shown is None else [shown]), *held.values())


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers that training forwards change: the running statistics of norms, by qualified name.

    Raises:
        ValueError: for a norm whose average cannot be exported.
    """
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None:
            if module.momentum is None:
                raise ValueError(f"{path}: momentum=None (a cumulative average) is not exported: give a number, 0.1")
            for name in ("running_mean", "running_var"):
                found[f"{path}.{name}" if path else name] = getattr(module, name).detach()
    return found


def counted(model: nn.Module) -> list[str]:
    """Returns the names of the buffers that count training steps."""
    return [name for name, _ in model.named_buffers() if name.rpartition(".")[2] == COUNT]


def with_values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous copies on the CPU."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _shape(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
