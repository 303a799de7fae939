"""The optimizer's step costs what running it on every parameter costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from recorded import recorded
from torch import nn, optim

from ecograph.cost.steps import Step, record_step
from ecograph.cost.steps.optimizer import as_on_gpu

x = torch.randn(2, 8)


def model() -> nn.Module:
    """Three layers, two of them alike, and one that is frozen."""
    layers = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    layers[1].requires_grad_(False)
    return layers


def moved(step: Step) -> Counter[str]:
    total: Counter[str] = Counter()
    for op in step.ops:
        if op.phase == "optimizer":
            assert op.layer == ""
            total[op.name] += op.bytes * op.count
    return +total


MAKERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": optim.AdamW,
    "amsgrad": partial(optim.Adam, amsgrad=True),
    "rmsprop": partial(optim.RMSprop, centered=True),
    "adagrad": optim.Adagrad,
    "adafactor": optim.Adafactor,
    "foreach": partial(optim.AdamW, foreach=True),
    "fused": partial(optim.AdamW, fused=True),
}


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_are_those_of_a_real_step(name: str) -> None:
    trained = [parameter for parameter in model().parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    made = MAKERS[name](trained)
    made.step()
    expected: Counter[str] = Counter()
    for op in recorded(lambda: made.step()):
        expected[op.name] += op.bytes
    step = record_step(model(), x, optimizer=MAKERS[name])
    assert moved(step) == +expected
    tensors = [t for state in made.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    assert step.state_bytes == sum(t.nbytes for t in tensors)
    assert not step.uncounted


def test_plain_sgd_by_hand() -> None:
    step = record_step(nn.Linear(8, 4), x, optimizer=partial(optim.SGD, lr=0.1))
    weight, bias = 8 * 4 * 4, 4 * 4
    assert moved(step) == {"aten.add_": 3 * (weight + bias)}, "the weight and its gradient are read, the weight written"
    assert step.state_bytes == 0


def test_fused_adamw_by_hand() -> None:
    step = record_step(nn.Linear(8, 4), x, optimizer=partial(optim.AdamW, fused=True))
    numbers, counters = 4 * (8 * 4 + 4), 2 * 4
    fused = [op for op in step.ops if op.name == "aten._fused_adamw_"]
    assert [(op.read, op.written) for op in fused] == [(4 * numbers + counters, 3 * numbers)]
    assert step.state_bytes == 2 * numbers + counters


def test_layers_that_are_alike_are_run_once_and_counted_often() -> None:
    layers = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
    one = record_step(layers[:1], x, optimizer=optim.AdamW)
    five = record_step(layers, x, optimizer=optim.AdamW)
    assert len([op for op in five.ops if op.phase == "optimizer"]) == len(
        [op for op in one.ops if op.phase == "optimizer"]
    )
    assert sum(moved(five).values()) == 5 * sum(moved(one).values())
    assert five.state_bytes == 5 * one.state_bytes


def test_a_ready_optimizer_counts_with_its_options() -> None:
    layer = nn.Linear(8, 4)
    ready = optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    by_class: Any = partial(optim.SGD, lr=0.1, momentum=0.9)
    assert moved(record_step(layer, x, optimizer=ready)) == moved(record_step(layer, x, optimizer=by_class))
    assert not ready.state, "it is left alone"


def test_nothing_to_train() -> None:
    step = record_step(nn.Linear(8, 4).requires_grad_(False), x, optimizer=optim.AdamW)
    assert {op.phase for op in step.ops} == {"forward"}
    assert step.state_bytes == 0


@pytest.mark.parametrize(
    ("make", "together"),
    [
        (optim.AdamW, True),
        (partial(optim.SGD, lr=0.1, momentum=0.9), True),
        (partial(optim.AdamW, foreach=False), False),
        (partial(optim.AdamW, fused=True), True),
        (optim.AdamW([nn.Parameter(x)], weight_decay=0.2), True),
        (optim.AdamW([nn.Parameter(x)], foreach=False), False),
        (optim.RAdam, True),
        (optim.Adafactor, False),
        (lambda parameters: optim.SGD(parameters, lr=0.1), False),  # nobody can look into it
    ],
)
def test_on_a_gpu_parameters_are_taken_together(make: Any, together: bool) -> None:
    """As torch does by itself there: one operation for all parameters of a model, not one for each."""
    here, there = (record_step(model(), x, optimizer=each) for each in (make, as_on_gpu(make)))

    def calls(step: Step) -> int:
        return sum(op.count for op in step.ops if op.phase == "optimizer" and op.kind != "view")

    again = partial(make, foreach=True) if isinstance(make, (type, partial)) else None
    if again is not None and together:
        fused = isinstance(make, partial) and make.keywords.get("fused")
        assert calls(there) == calls(record_step(model(), x, optimizer=make if fused else again))
    assert (calls(there) <= 20) is together or calls(there) == calls(here)


def test_the_options_of_an_optimizer_hold_on_a_gpu() -> None:
    made = as_on_gpu(optim.AdamW([nn.Parameter(x)], lr=0.3, weight_decay=0.2, amsgrad=True))([nn.Parameter(x)])
    assert (made.defaults["lr"], made.defaults["weight_decay"], made.defaults["amsgrad"]) == (0.3, 0.2, True)
    assert made.defaults["foreach"] is True
