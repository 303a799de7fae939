"""Training steps to time: on which device, in which precision and memory format, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import FunctionType
from typing import Any

import torch
from models import ModelSpec
from torch import Tensor, nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}

_numbers = count()


def model_and_inputs(spec: ModelSpec, memory_format: str, share: float = 1.0) -> tuple[nn.Module, Tensor]:
    """Makes a model and a batch, the same ones every time.

    Args:
        spec: what to build.
        memory_format: one of ``FORMATS``; for images.
        share: of the inner widths.
    """
    torch.manual_seed(0)
    inputs = spec.inputs().to(DEVICE)
    model = spec.build(share=share).to(DEVICE).train()
    if spec.images:
        inputs = inputs.contiguous(memory_format=FORMATS[memory_format])
        model = model.to(memory_format=FORMATS[memory_format])
    return model, inputs


def loss(model: Callable[[Tensor], Tensor], inputs: Tensor, dtype: str) -> Tensor:
    """Runs the forward; a loss that costs next to nothing, so that the model is what is timed."""
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        return model(inputs).float().square().mean()


def training_step(model: nn.Module, inputs: Tensor, dtype: str, mode: str) -> Callable[[], None]:
    """Returns a step: zero_grad, forward, backward, and SGD with momentum.

    Args:
        model: in training mode.
        inputs: a batch.
        dtype: one of ``DTYPES``; bfloat16 by autocast.
        mode: ``"eager"`` or ``"compiled"``.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    run = torch.compile(_function_of_its_own(model)) if mode == "compiled" else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(run, inputs, dtype).backward()
        optimizer.step()

    return step


def _function_of_its_own(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Returns the model as a function whose code no other model shares.

    Dynamo keeps what it compiled, and what it takes for dynamic, by code object. Several models of one class that are
    timed side by side would be compiled into one cache: the second, which is narrower, with symbolic sizes.
    """

    def forward(inputs: Tensor) -> Tensor:
        return model(inputs)

    code = forward.__code__.replace(co_name=f"forward_{next(_numbers)}")
    return FunctionType(code, forward.__globals__, closure=forward.__closure__)


def forward_and_backward(model: nn.Module, inputs: Tensor, dtype: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Returns the two halves of an eager step, as ``timing.interleaved`` takes them."""

    def backward() -> Callable[[], Any]:
        model.zero_grad(set_to_none=True)
        return loss(model, inputs, dtype).backward

    return {"forward": lambda: lambda: loss(model, inputs, dtype), "backward": backward}
