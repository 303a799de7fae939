"""What an operation costs beside its own time: the module that calls it, and autograd, which records it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import nn

from ecograph.cost.steps.frames import Frames, of_a_step

_LAYERS = 100
_ROUNDS = 30


def time_overheads(times: int = 3) -> dict[str, float]:
    """Returns the seconds per operation in the forward, the backward and the optimizer's step, beside its own time.

    ``"function"`` is for each ``autograd.Function`` written in Python, forward and backward together; ``"python"`` for
    each call of a Python function, which is in none of the others.

    Args:
        times: how often each is taken, a second each; the figures are medians. They are small differences.
    """
    found = [_overheads() for _ in range(times)]
    return {each: statistics.median(one[each] for one in found) for each in found[0]}


def _overheads() -> dict[str, float]:
    python, again = _time_python()
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
    found["forward"] -= again * _calls(lambda: layers(inputs))
    found = {phase: max(seconds, 0.0) / _LAYERS for phase, seconds in found.items()}
    differentiate = partial(_differentiate_functions, inputs, outputs.detach())
    function = (_median(differentiate) - again * _calls(differentiate)) / _LAYERS
    # The view is in the counts of operations, forward and backward.
    found["function"] = max(function - found["forward"], 0.0)
    return found | {"recomputed": found["forward"], "python": python}


def _time_python() -> tuple[float, float]:
    """Returns the seconds that a call of a Python function takes: between operations, and again and again by itself.

    Between operations it finds little of itself in the processor's caches, and takes up to three times as long. What is
    called is Python's own arithmetic of fractions: a few lines to a function, as in what a module's forward calls.
    """
    layers = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(_LAYERS // 2)]
    images = torch.zeros(2, 16, 4, 4)
    third = Fraction(1, 3)

    def compute() -> Fraction:
        return (third * third + third) / 3 - third

    def run(between: Callable[[], Any]) -> None:
        found = images
        for layer in layers:
            found = layer(found)
            between()

    calls = _calls(compute, of=lambda module: True)
    more = []
    for _ in range(_ROUNDS):  # in turn, since the two differ by little
        without = _once(lambda: run(lambda: None))
        more.append(_once(lambda: run(compute)) - without)
    between = max(statistics.median(more[3:]), 0.0) / len(layers) / calls
    again = _median(lambda: [compute() for _ in range(_LAYERS)]) / _LAYERS / calls
    return max(between, again), again


def _calls(run: Callable[[], Any], of: Callable[[str], bool] = of_a_step) -> int:
    """Returns how many Python functions are called, ``run`` itself among them where it counts."""
    frames = Frames(of)
    frames.start()
    run()
    frames.stop()
    return frames.count


def _once(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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


def _differentiate_functions(inputs: torch.Tensor, gradient: torch.Tensor) -> None:
    found = inputs
    for _ in range(_LAYERS):
        found = _Identity.apply(found)  # type: ignore[no-untyped-call]
    torch.autograd.grad(found, inputs, gradient)


def _repeat(run: Callable[..., Any], *operands: Any) -> None:
    for _ in range(_LAYERS):
        run(*operands)


def _median(run: Callable[[], Any], rounds: int = _ROUNDS) -> float:
    times = [_once(run) for _ in range(rounds)]
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
