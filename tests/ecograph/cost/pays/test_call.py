"""What a call runs, against the same call in a recorded step, and in the middle of everything that torch can be in."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ecograph.cost.pays import PlainProduct, Spec, record_call
from ecograph.cost.steps import record_step

CONV = PlainProduct.conv(2, padding=1)
SPECS = (Spec((2, 8, 6, 6)), Spec((16, 8, 3, 3), weight=True), Spec((16,), weight=True))


def test_it_runs_what_the_layer_runs_in_a_step() -> None:
    # Tanh before it, so that its input needs a gradient too.
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 16, 3, padding=1))
    step = record_step(model, torch.empty(2, 8, 6, 6))
    of_layer = Counter((op.name, op.phase, op.grad, op.flops, op.sizes) for op in step.ops if op.layer == "1")
    alone = Counter((op.name, op.phase, op.grad, op.flops, op.sizes) for op in record_call(CONV, SPECS))
    products = {key: count for key, count in alone.items() if key[3]}
    assert len(products) == 3
    assert products.items() <= of_layer.items()


def test_what_needs_no_gradient_has_none() -> None:
    frozen = record_call(CONV, (SPECS[0], Spec((16, 8, 3, 3), requires_grad=False), None))
    assert [op.grad for op in frozen if op.flops] == ["", "grad_input"]
    none = record_call(CONV, (Spec((2, 8, 6, 6), requires_grad=False), Spec((16, 8, 3, 3), requires_grad=False), None))
    assert [op.phase for op in none if op.flops] == ["forward"]


def test_a_function_written_in_python_counts_once_for_each_call() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(input: Tensor) -> Tensor:
            return input * 2

        @staticmethod
        def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
            pass

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad * 2 + 0

    ops = record_call(lambda x: Twice.apply(torch.tanh(Twice.apply(x))), [Spec((4,))])
    assert [op.name for op in ops].count("autograd.Function") == 2
    assert not any(op.kind == "function" for op in record_call(torch.tanh, [Spec((4,))]))


@pytest.mark.parametrize(("last", "expected"), [(False, False), (True, True)])
def test_memory_formats(last: bool, expected: bool) -> None:
    specs = (Spec((2, 8, 6, 6), channels_last=last), Spec((16, 8, 3, 3), weight=True, channels_last=last), None)
    assert {op.channels_last for op in record_call(CONV, specs) if op.flops} == {expected}


def test_it_neither_sees_nor_changes_what_it_is_asked_in_the_middle_of() -> None:
    expected = record_call(CONV, SPECS)
    seen: list[Tensor] = []
    state = torch.get_rng_state()
    found = []

    def ask(x: Tensor) -> Tensor:
        found.append(record_call(CONV, SPECS))
        return x

    pack = torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t)  # type: ignore[func-returns-value]
    with FlopCounterMode(display=False) as counter, pack, torch.autocast("cpu", dtype=torch.bfloat16):
        ask(torch.ones(1))
    assert counter.get_total_flops() == 0 and not seen
    with torch.no_grad(), torch.inference_mode():
        ask(torch.ones(1))
    torch.func.grad(lambda x: ask(x).sum())(torch.ones(2))
    torch.func.vmap(ask)(torch.ones(3, 2))
    assert found == [expected] * 4
    assert torch.equal(torch.get_rng_state(), state)


def test_what_the_call_raises_is_raised() -> None:
    with pytest.raises(RuntimeError, match="same reduction dim"):
        record_call(F.linear, [Spec((2, 3)), Spec((4, 5))])
