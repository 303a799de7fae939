"""What is called between operations takes longer where these have filled the caches: how much.

Between operations on large tensors, Python and torch's dispatcher find neither their code nor data near.
Each of them is timed by itself, in turn with a layer: once on small images, and once on large ones.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from ecograph.cost.calibration.calls import calls
from ecograph.cost.steps.kinds import CALL, FUNCTION, PYTHON, VIEW
from ecograph.cost.steps.recorder import HALF

_ROUNDS = 12
#: Images that leave the caches alone, and such as fill them: 8 MiB.
_SMALL, _LARGE = (2, 16, 4, 4), (8, 64, 64, 64)
#: Bytes that a layer moves on the large ones: three operations read and write them.
_MOVED = 6 * 2**23
#: Views in a row.
_VIEWS = 5
#: Small operations in a row.
_OPERATIONS = 8
_THIRD = Fraction(1, 3)


def compute() -> Fraction:
    """Calls Python functions of a few lines, as what a module's forward calls: those of its fractions."""
    return (_THIRD * _THIRD + _THIRD) / 3 - _THIRD


class Identity(torch.autograd.Function):
    """A view, differentiated in Python."""

    @staticmethod
    def forward(input: torch.Tensor) -> torch.Tensor:
        """Returns a view."""
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        """Keeps the input, as such functions do."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        """Returns the gradient; reading what was kept is part of what every such function does."""
        ctx.saved_tensors  # noqa: B018
        return grad_outputs[0]


def time_swept() -> tuple[dict[str, float], dict[str, float]]:
    """Returns seconds of what lies between operations: beside small ones, and how much longer with full caches.

    Of each call of a Python function; of a view; of a small operation; and of a function that is differentiated in
    Python, forward and backward together.
    """
    near, far = _beside(_SMALL), _beside(_LARGE)
    filled = _MOVED / (_MOVED + HALF)
    return near, {of: max(far[of] - near[of], 0.0) / filled for of in near}


def _beside(shape: tuple[int, ...]) -> dict[str, float]:
    layer = nn.Sequential(nn.Conv2d(shape[1], shape[1], 1), nn.BatchNorm2d(shape[1]), nn.ReLU())
    images = torch.zeros(shape)
    inputs = torch.zeros(8, requires_grad=True)
    matrix = torch.zeros(64, 64)
    row = torch.rand(64)
    gradient = torch.ones(8)

    def views() -> torch.Tensor:
        return matrix.movedim(1, -1).reshape(-1, 64).expand(64, 64).view(8, 8, 64).unsqueeze(0)

    def operations() -> torch.Tensor:
        kept = row.topk(13).indices.sort().values
        taken = matrix.index_select(0, kept).abs().sum(0)
        return row.clone().index_fill_(0, kept, 0.0).add_(taken)

    def viewed() -> Any:
        return torch.autograd.grad(inputs.view_as(inputs), inputs, gradient)

    def in_python() -> Any:
        return torch.autograd.grad(Identity.apply(inputs), inputs, gradient)  # type: ignore[no-untyped-call]

    probes: Mapping[str, Callable[[], Any]] = {
        "python": compute,
        "views": views,
        "operations": operations,
        "viewed": viewed,
        "in python": in_python,
    }
    times: dict[str, list[float]] = {name: [] for name in probes}
    for _ in range(_ROUNDS):
        for name, probe in probes.items():
            layer(images)
            start = time.perf_counter()
            probe()
            times[name].append(time.perf_counter() - start)
    taken = {name: statistics.median(found[2:]) for name, found in times.items()}
    python = taken["python"] / calls(compute, of=lambda module: True)
    # Views and Python's functions are written down by themselves.
    return {
        PYTHON: python,
        VIEW: taken["views"] / _VIEWS,
        CALL: taken["operations"] / _OPERATIONS,
        FUNCTION: max(taken["in python"] - taken["viewed"] - python * (calls(in_python) - calls(viewed)), 0.0),
    }
