from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.rewrite.functions import applied, mapped, per_dimension, plain_conv


@pytest.mark.parametrize(("value", "dims", "expected"), [(2, 3, (2, 2, 2)), ((2,), 2, (2, 2)), ([1, 2], 2, (1, 2))])
def test_per_dimension(value: Any, dims: int, expected: tuple[int, ...]) -> None:
    assert per_dimension(value, dims) == expected


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_plain_conv_is_the_function_of_that_kind(dims: int) -> None:
    input, weight, bias = torch.randn(2, 4, *[5] * dims), torch.randn(4, 2, *[3] * dims), torch.randn(4)
    found = plain_conv(input, weight, bias, 2, 1, 1, 2, transposed=False, output_padding=0)
    assert torch.equal(found, getattr(F, f"conv{dims}d")(input, weight, bias, 2, 1, 1, 2))
    found = plain_conv(input, weight, bias[:2], 2, 1, 1, 1, transposed=True, output_padding=(1,) * dims)
    assert torch.equal(found, getattr(F, f"conv_transpose{dims}d")(input, weight, bias[:2], 2, 1, 1, 1, 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, from within torch.func.jvp
def test_mapped_knows_vmap_and_jvp_from_grad() -> None:
    seen: list[bool] = []

    def f(x: Tensor) -> Tensor:
        seen.append(mapped())
        return x.sum()

    x = torch.randn(3)
    f(x)
    torch.func.grad(f)(x)
    torch.func.vmap(f)(x)
    torch.func.jvp(f, (x,), (x,))
    assert seen == [False, False, True, True]


class Times(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:
        return x * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


times = applied(Times)
x = torch.tensor([1.0, -2.0])


def test_it_is_differentiated() -> None:
    inputs = x.clone().requires_grad_()
    outputs = times(inputs, 3.0)
    outputs.sum().backward()
    assert torch.equal(outputs, 3 * x) and torch.equal(inputs.grad, torch.full((2,), 3.0))


def test_transforms_see_it() -> None:
    second = torch.func.grad(lambda t: torch.func.grad(lambda u: times(u, 3.0).square().sum())(t).sum())
    assert torch.equal(second(x), torch.full((2,), 18.0))


def test_what_has_outlived_its_transform_is_what_it_wraps() -> None:
    kept: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        kept.append(t)
        return t.sum()

    torch.func.grad(keep)(x)
    assert torch.equal(times(kept[0], 3.0), 3 * x)
