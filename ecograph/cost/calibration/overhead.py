"""What an operation costs beside its own time: the module that calls it, and autograd, which records it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_LAYERS = 100
_ROUNDS = 30


def time_overheads() -> dict[str, float]:
    """Returns the seconds per operation in the forward, the backward and the optimizer's step, beside its own time.

    ``"function"`` is for each ``autograd.Function`` written in Python, forward and backward together.
    """
    layers = nn.Sequential(*(nn.Tanh() for _ in range(_LAYERS)))
    inputs = torch.zeros(8, requires_grad=True)
    outputs = layers(inputs)
    gradient = torch.ones_like(outputs)
    with torch.no_grad():
        plain = _median(lambda: _repeat(torch.tanh, inputs))
        plain_backward = _median(lambda: _repeat(torch.ops.aten.tanh_backward, gradient, outputs))
    forward = _median(lambda: layers(inputs))
    backward = _median(lambda: torch.autograd.grad(layers(inputs), inputs, gradient)) - forward
    parameters = [nn.Parameter(torch.zeros(8)) for _ in range(_LAYERS)]
    for parameter in parameters:
        parameter.grad = torch.zeros(8)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with torch.no_grad():
        plain_step = _median(lambda: _repeat(lambda p: p.add_(p, alpha=0.1), gradient.clone()))
    step = _median(optimizer.step)
    found = {"forward": forward - plain, "backward": backward - plain_backward, "optimizer": step - plain_step}
    found = {phase: max(seconds, 0.0) / _LAYERS for phase, seconds in found.items()}
    function = _median(lambda: torch.autograd.grad(_functions(inputs), inputs, outputs.detach())) / _LAYERS
    # The view is in the counts of operations, forward and backward.
    found["function"] = max(function - found["forward"], 0.0)
    return found | {"recomputed": found["forward"]}


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(input: torch.Tensor) -> torch.Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        ctx.saved_tensors  # noqa: B018  # reading them is part of what every such function does
        return grad_outputs[0]


def _functions(inputs: torch.Tensor) -> torch.Tensor:
    for _ in range(_LAYERS):
        inputs = _Identity.apply(inputs)  # type: ignore[no-untyped-call]
    return inputs


def _repeat(run: Callable[..., Any], *operands: Any) -> None:
    for _ in range(_LAYERS):
        run(*operands)


def _median(run: Callable[[], Any], rounds: int = _ROUNDS) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def time_new_memory(count: int = 2**25) -> float:
    """Returns the seconds per byte that it takes longer to write to memory that the system has just given.

    Args:
        count: of float32 numbers; far more than what an allocator keeps for itself.
    """
    there = torch.zeros(count)
    again = _median(lambda: there.fill_(1.0), rounds=8)
    new = _median(lambda: torch.empty(count).fill_(1.0), rounds=8)
    return max(new - again, 0.0) / (4 * count)
