"""Calls that compute each element by itself: every dimension goes on, in every spelling."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structure import Structure
from torch import Tensor

from ecograph.analysis.rules.call import function_name
from ecograph.analysis.rules.elementwise import LIKE_FIRST, NAMES

#: Of one tensor, whose elements are between 0.1 and 0.9.
UNARY: list[Callable[[Tensor], Tensor]] = [
    *(getattr(torch, name) for name in (
        "neg", "abs", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "square", "sin", "cos",
        "tan", "sinh", "cosh", "erf", "sign", "floor", "ceil", "round", "trunc", "sigmoid", "tanh", "relu", "isnan",
        "isinf", "isfinite", "logical_not", "nan_to_num",
    )),
    *(getattr(F, name) for name in (
        "relu", "relu6", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "selu",
        "celu", "softplus", "softsign", "softshrink", "hardshrink", "tanhshrink", "logsigmoid", "sigmoid", "tanh",
    )),
    lambda a: F.threshold(a, 0.5, 0.0),
    lambda a: F.relu(a.clone(), inplace=True),
    lambda a: torch.relu_(a.clone()),
    lambda a: a.clone().sigmoid_(),
    lambda a: a.clone().neg_().exp_(),
    lambda a: -a,
    lambda a: abs(a),
    lambda a: ~(a > 0.5),
    lambda a: 2 * a,
    lambda a: 2 - a,
    lambda a: 2 / a,
    lambda a: 2**a,
    lambda a: a**2,
    lambda a: a // 0.3,
    lambda a: a % 0.3,
    lambda a: a.clamp(0.2, 0.7),
    lambda a: a.clip(min=0.2),
    lambda a: a.clamp_min(0.2),
    lambda a: torch.clamp_max(a, 0.7),
    lambda a: a.add(1, alpha=2),
    lambda a: torch.rsub(a, 1),
    lambda a: a.float(),
    lambda a: a.to(torch.bfloat16),
    lambda a: a.type(torch.float32),
    lambda a: a.half().bfloat16().cpu(),
    lambda a: (a * 9).long(),
    lambda a: (a * 9).int(),
    lambda a: (a * 9).round().bool(),
    lambda a: a.to("cpu").contiguous(),
    lambda a: a.clone().detach(),
    lambda a: torch.zeros_like(a),
    lambda a: torch.ones_like(input=a),
    lambda a: torch.full_like(a, 3.0),
    lambda a: a.clone().zero_(),
    lambda a: a.clone().fill_(2.0),
    lambda a: F.dropout(a, 0.0),
    lambda a: F.alpha_dropout(a, 0.0),
]  # fmt: skip
#: Of two tensors that are broadcast, and are between 0.1 and 0.9 too.
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, torch.floor_divide, torch.pow, torch.remainder),
    *(torch.fmod, torch.minimum, torch.maximum, torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge),
    lambda a, b: a.add(b).mul(b).sub(b),
    lambda a, b: a.clone().add_(b).mul_(b).div_(b),
    lambda a, b: torch.add(a, other=b, alpha=3),
    lambda a, b: torch.mul(input=a, other=b),
    lambda a, b: torch.where(a > 0.5, a, b),
    lambda a, b: a.where(b > 0.5, 0.0),
    lambda a, b: a.masked_fill(b > 0.5, 0.0),
    lambda a, b: torch.lerp(a, b.expand_as(a), 0.3),
    lambda a, b: torch.addcmul(a, b, b, value=2),
    lambda a, b: torch.addcdiv(a, b, b),
    lambda a, b: (a > 0.5) & (b > 0.5) | (a > 0.7) ^ (b > 0.3),
    lambda a, b: torch.logical_and(torch.logical_or(a > 0.5, b > 0.5), torch.logical_xor(a > 0.7, b > 0.3)),
    lambda a, b: torch.bitwise_and(a > 0.5, torch.bitwise_or(b > 0.5, torch.bitwise_not(b > 0.7))),
    lambda a, b: torch.clamp(a, max=b),
    lambda a, b: a.to(b.expand_as(a)).type_as(b.expand_as(a)) + b,
]
RANDOM: list[Callable[[Tensor], Tensor]] = [
    lambda a: F.dropout(a),
    lambda a: F.feature_alpha_dropout(a),
    lambda a: F.dropout1d(a),
    lambda a: F.dropout2d(a.unsqueeze(-1)).squeeze(-1),
    lambda a: F.dropout3d(a[..., None, None]).squeeze(-1).squeeze(-1),
    lambda a: torch.feature_dropout(a, 0.5, True),
    lambda a: torch.rand_like(a),
    lambda a: torch.randn_like(a),
    lambda a: torch.empty_like(a),
    lambda a: torch.bernoulli(a),
    lambda a: a.clone().uniform_(),
    lambda a: a.clone().normal_(),
]


def tensor(*shape: int) -> Tensor:
    return torch.rand(shape) * 0.8 + 0.1


def expected(axes: int, outputs: int) -> list[str]:
    """Every dimension of the input with that of every output."""
    return [f"a{axis}" + f" y{axis}" * outputs for axis in range(axes)]


def names(structure: Structure) -> set[str]:
    return {function_name(n) for n in structure.graph.nodes if n.op in ("call_function", "call_method")}


def chunks(functions: list[Any], size: int = 12) -> list[list[Any]]:
    return [functions[i : i + size] for i in range(0, len(functions), size)]


def check(functions: list[Any], inputs: tuple[Tensor, ...], *, values: bool = True) -> None:
    structure = Structure(lambda *given: tuple(function(*given) for function in functions), inputs)
    for axis in range(inputs[0].dim()):
        (together,) = (c for c in structure.free if any(structure.names.get(part) == f"a{axis}" for part in c))
        nodes = {part.dim.node for part in together if part.dim.axis == axis}
        assert set(structure.outputs) <= nodes
    assert not structure.dimensions.stops
    assert structure.check(values=values) == inputs[0].dim()


@pytest.mark.parametrize("functions", chunks(UNARY))
def test_of_one_tensor(functions: list[Callable[[Tensor], Tensor]]) -> None:
    check(functions, (tensor(3, 4, 5),))


@pytest.mark.parametrize("functions", chunks(BINARY))
@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5), (4, 1)], ids=str)
def test_of_two_tensors(functions: list[Callable[[Tensor, Tensor], Tensor]], shape: tuple[int, ...]) -> None:
    check(functions, (tensor(3, 4, 5), tensor(*shape)))


def test_random_ones() -> None:
    check(RANDOM, (tensor(3, 4, 5),), values=False)


def test_every_name_in_the_tables_is_tested() -> None:
    met: set[str] = set()
    for functions, count in ((UNARY, 1), (BINARY, 2), (RANDOM, 1)):
        inputs = tuple(tensor(3, 4, 5) for _ in range(count))
        met |= names(Structure(lambda *given, some=functions: tuple(f(*given) for f in some), inputs))
    # Dynamo writes these in other words, or they need a GPU.
    elsewhere = {"cuda", "double", "logsigmoid", "radd", "rmul", "rtruediv", "rpow", "requires_grad"}
    assert {*NAMES, *LIKE_FIRST} - met <= elsewhere


def test_a_slope_for_each_channel_is_one_of_them() -> None:
    each = Structure(F.prelu, (tensor(3, 4, 5) - 0.5,), (tensor(4),))
    assert each.said() == {"a0 y0", "a1 b0 y1", "a2 y2"}
    one = Structure(F.prelu, (tensor(3, 4, 5) - 0.5,), (tensor(1),))
    assert one.said() == {"a0 y0", "a1 y1", "a2 y2"}
    assert each.check() == one.check() == 3


def test_a_call_that_checks_a_dtype_stops_nothing() -> None:
    def checked(a: Tensor) -> Tensor:
        torch._assert_tensor_metadata(a, dtype=torch.float32)
        return a + 1

    assert Structure(checked, (tensor(3, 4),)).said() == {"a0 y0", "a1 y1"}
