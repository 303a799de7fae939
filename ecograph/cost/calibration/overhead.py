"""What an operation costs beside its own time: the module that calls it, and autograd, which records it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ecograph.cost.calibration.calls import calls
from ecograph.cost.calibration.swept import compute, time_swept
from ecograph.cost.steps.kinds import FUNCTION, PYTHON

_LAYERS = 100
_ROUNDS = 30


def time_overheads(times: int = 3) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the seconds per operation in the forward, the backward and the optimizer's step, beside its own time.

    ``"function"`` is for each ``autograd.Function`` written in Python, forward and backward together; ``"python"`` for
    each call of a Python function, which is in none of the others.

    Args:
        times: how often each is taken, a second each; the figures are medians. They are small differences.

    Returns:
        The seconds; and those that are added where other operations have filled the caches, with a ``"view"``'s own.
    """
    near, swept = time_swept(times)
    found = [_overheads(near[PYTHON]) for _ in range(times)]
    beside = {each: statistics.median(one[each] for one in found) for each in found[0]}
    return beside | {"recomputed": beside["forward"], FUNCTION: near[FUNCTION], PYTHON: near[PYTHON]}, swept


def _overheads(python: float) -> dict[str, float]:
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
    again = _median(lambda: [compute() for _ in range(_LAYERS)]) / _LAYERS / calls(compute, of=lambda module: True)
    found["forward"] -= min(python, again) * calls(lambda: layers(inputs))
    return {phase: max(seconds, 0.0) / _LAYERS for phase, seconds in found.items()}


def _once(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
