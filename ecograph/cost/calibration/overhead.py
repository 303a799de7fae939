"""What an operation costs beside its own time: the module that calls it, and autograd, which records it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from ecograph.cost.calibration.calls import calls
from ecograph.cost.calibration.swept import compute, time_swept
from ecograph.cost.steps.kinds import FUNCTION, PYTHON

_LAYERS = 100
_ROUNDS = 12


class Calling(NamedTuple):
    """Seconds that calling an operation by ``torch.ops`` takes longer than a step's own calls do.

    ``torch.ops`` looks for the overload and takes the arguments apart in Python. A step's forward calls functions that
    do so in C++, and its backward calls kernels at once; but not all that it runs has such a function.

    Attributes:
        conv: of a convolution, which has nine arguments and more, some of them lists.
        other: of anything else.
    """

    conv: float
    other: float

    def __call__(self, kind: str) -> float:
        """Returns the seconds for a kind of operation."""
        return self.conv if kind == "conv" else self.other


@torch.no_grad()
def time_calling() -> Calling:
    """Returns what calling an operation by ``torch.ops`` takes longer than by a function of torch."""
    row, image, weight = torch.zeros(8), torch.zeros(1, 4, 2, 2), torch.zeros(4, 4, 1, 1)
    geometry = [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    conv = _longer(
        lambda: torch.ops.aten.convolution(image, weight, None, *geometry),
        lambda: torch.convolution(image, weight, None, *geometry),
    )
    return Calling(conv, _longer(lambda: torch.ops.aten.relu(row), lambda: torch.relu(row)))


def _longer(run: Callable[[], Any], other: Callable[[], Any]) -> float:
    times = [(_median(lambda: _repeat(run), 10), _median(lambda: _repeat(other), 10)) for _ in range(5)]
    return max(statistics.median(one - two for one, two in times), 0.0) / _LAYERS


@dataclass(frozen=True)
class Overheads:
    """What operations cost beside their own time, in seconds.

    Attributes:
        calling: what calling them by ``torch.ops`` takes longer.
        beside: phase of a step -> of each operation in it; ``"function"``: of each ``autograd.Function`` written in
            Python, forward and backward together; ``"python"``: of each call of a Python function, which is in none of
            the others.
        swept: what is added where other operations have filled the caches; with a ``"view"``'s own.
    """

    calling: Calling
    beside: Mapping[str, float]
    swept: Mapping[str, float]


def time_overheads() -> Overheads:
    """Times what operations cost beside their own time, in about a second.

    They are small differences, and the pace of Python changes by half on machines that are shared: see ``middle``.
    """
    near, swept = time_swept()
    calling = time_calling()
    beside = _overheads(near[PYTHON], calling.other)
    beside |= {"recomputed": beside["forward"], FUNCTION: near[FUNCTION], PYTHON: near[PYTHON]}
    return Overheads(calling, beside, swept)


def middle(found: Sequence[Overheads]) -> Overheads:
    """Returns the medians of overheads that were timed at several times."""

    def median(of: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: statistics.median(each[name] for each in of) for name in of[0]}

    return Overheads(
        Calling(*map(statistics.median, zip(*(each.calling for each in found), strict=True))),
        median([each.beside for each in found]),
        median([each.swept for each in found]),
    )


def _overheads(python: float, calling: float) -> dict[str, float]:
    layers = nn.Sequential(*(nn.Tanh() for _ in range(_LAYERS)))
    inputs = torch.zeros(8, requires_grad=True)
    outputs = layers(inputs)
    gradient = torch.ones_like(outputs)
    with torch.no_grad():
        plain = _median(lambda: _repeat(torch.tanh, inputs))
        plain_backward = _median(lambda: _repeat(torch.ops.aten.tanh_backward, gradient, outputs)) - _LAYERS * calling
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
