"""Counts are compared with what is called by hand; nothing here takes time."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ecograph.cost.steps.frames import Frames, of_a_step
from ecograph.cost.steps.kinds import PYTHON
from ecograph.cost.steps.record import record_step


def halve(x: Tensor) -> Tensor:
    return x / 2


class Halves(nn.Module):
    """A layer that calls a function of Python's, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = halve(x)
        return x * self.scale


def calls(model: nn.Module, layer: str, phase: str = "forward") -> int:
    ops = record_step(model, torch.zeros(2, 3), optimizer=torch.optim.SGD).ops
    return sum(op.count for op in ops if op.kind == PYTHON and (op.layer, op.phase) == (layer, phase))


def test_each_call_of_a_function_counts_for_its_layer() -> None:
    first, second = Halves(3), Halves(1)
    few = [calls(nn.Sequential(first, second), layer) for layer in "01"]
    second.times = 6
    many = [calls(nn.Sequential(first, second), layer) for layer in "01"]
    assert many[0] == few[0] and many[1] - few[1] == 5


def test_the_optimizer_and_what_watches_do_not_count() -> None:
    ops = record_step(nn.Linear(3, 3), torch.zeros(2, 3), optimizer=torch.optim.AdamW).ops
    counted = [op for op in ops if op.kind == PYTHON]
    assert {op.phase for op in counted} == {"forward"}
    assert sum(op.count for op in counted) <= 6  # Linear's forward, and the two functions that call it


class Function(torch.autograd.Function):
    """Whose backward calls Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return halve(halve(grads[0]))


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return Function.apply(self.first(x))  # type: ignore[no-any-return, no-untyped-call]


def test_so_does_python_in_the_backward() -> None:
    assert calls(Doubled(), "", "backward") >= 3


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("timm.layers.conv", True),
        ("__main__", True),
        ("ecograph.passes.sliceout.take", True),
        ("ecograph.cost.steps.recorder", False),
        ("torch.nn.modules.module", True),
        ("torch._subclasses.fake_tensor", False),
        ("weakref", False),
        ("collections.abc", False),
    ],
)
def test_whose_functions_count(module: str, counts: bool) -> None:
    assert of_a_step(module) is counts


def test_a_profiler_that_is_there_is_left_alone() -> None:
    seen: list[str] = []

    def profiler(frame: Any, event: str, argument: Any) -> None:
        seen.append(event)

    frames = Frames(of=lambda module: True)
    before = sys.getprofile()
    sys.setprofile(profiler)
    try:
        frames.start()
        halve(torch.zeros(1))
        frames.stop()
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)
    assert frames.count == 0 and "call" in seen
