"""Which products are sites, what they are called, and why some cannot be rewritten."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from zoo.checks import calls, check

from ecograph.analysis import Site, find_sites
from ecograph.capture import capture

HOUSEHOLDER = "its weight fc.parametrizations.weight.original is handed in from outside fc.parametrizations.weight.0"
LEFT = "the weight is the left operand of the product"


@dataclass
class Case:
    """A model's forward and what must be found in it.

    Attributes:
        name: of the test.
        parts: the model's modules and parameters.
        forward: its forward.
        inputs: its positional inputs.
        sites: ``(name, module, problem)`` for each site, in order.
        plain: which of them are plain torch.nn layers.
    """

    name: str
    parts: dict[str, Any]
    forward: Callable[..., torch.Tensor]
    inputs: tuple[torch.Tensor, ...]
    sites: list[tuple[str, str, str]]
    plain: list[bool]


class Model(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        for name, part in case.parts.items():
            setattr(self, name, part)
        self.body = case.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self, x)


class Conv1D(nn.Module):
    """As in GPT-2: a linear layer with the weight the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.size()[:-1] + (self.bias.numel(),)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class Standardized(nn.Conv2d):
    """Its weight is normalized in every forward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.flatten(1)
        weight = ((weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)).view_as(self.weight)
        return F.conv2d(x, weight, self.bias)


class Outside(nn.Module):
    """Multiplies by a weight that it is handed."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(4, 4))


X, X3, IMAGE = torch.randn(2, 4), torch.randn(2, 3, 4), torch.randn(2, 4, 9, 9)
SHARED = nn.Linear(4, 4)
TABLE = nn.Embedding(10, 4)
W4 = ("w", "", "")

CASES = [
    Case("linear", {"fc": nn.Linear(4, 4)}, lambda m, x: m.fc(x), (X,), [("fc", "fc", "")], [True]),
    Case("3-D input", {"fc": nn.Linear(4, 4)}, lambda m, x: m.fc(x), (X3,), [("fc", "fc", "")], [True]),
    Case("1-D input", {"fc": nn.Linear(4, 4)}, lambda m, x: m.fc(x[0]), (X,), [("fc", "fc", "")], [True]),
    Case(
        "F.linear with a child's weight",
        {"fc": nn.Linear(4, 4)},
        lambda m, x: F.linear(x, m.fc.weight, m.fc.bias),
        (X,),
        [("fc", "", "")],
        [False],
    ),
    Case(
        "F.linear with keywords", {"w": weight(4, 4)}, lambda m, x: F.linear(input=x, weight=m.w), (X,), [W4], [False]
    ),
    Case("addmm", {"conv": Conv1D(4, 6)}, lambda m, x: m.conv(x), (X3,), [("conv", "conv", "")], [False]),
    Case("x @ w", {"w": weight(4, 4)}, lambda m, x: x @ m.w, (X3,), [W4], [False]),
    Case("x @ w.T", {"w": weight(4, 4)}, lambda m, x: x @ m.w.T, (X3,), [W4], [False]),
    Case("x @ w.t()", {"w": weight(4, 4)}, lambda m, x: x @ m.w.t(), (X,), [W4], [False]),
    Case("matmul", {"w": weight(4, 4)}, lambda m, x: torch.matmul(x, m.w), (X,), [W4], [False]),
    Case("x.matmul", {"w": weight(4, 4)}, lambda m, x: x.matmul(m.w), (X,), [W4], [False]),
    Case("mm", {"w": weight(4, 4)}, lambda m, x: torch.mm(x, m.w), (X,), [W4], [False]),
    Case("x.mm", {"w": weight(4, 4)}, lambda m, x: x.mm(m.w), (X,), [W4], [False]),
    Case("half a weight", {"w": weight(8, 4)}, lambda m, x: F.linear(x, m.w[:4]), (X,), [W4], [False]),
    Case("a scaled weight", {"w": weight(4, 4)}, lambda m, x: F.linear(x, m.w * 0.5), (X,), [W4], [False]),
    Case("w @ x", {"w": weight(5, 2)}, lambda m, x: m.w @ x, (X,), [("w", "", LEFT)], [False]),
    Case("a vector", {"w": weight(4)}, lambda m, x: x @ m.w, (X,), [("w", "", "the weight is a vector")], [False]),
    Case(
        "addmm with alpha",
        {"w": weight(4, 4), "b": weight(4)},
        lambda m, x: torch.addmm(m.b, x, m.w, alpha=2),
        (X,),
        [("w", "", "addmm with alpha or beta other than 1 is not rewritten")],
        [False],
    ),
    Case(
        "einsum",
        {"w": weight(4, 5)},
        lambda m, x: torch.einsum("bti,io->bto", x, m.w),
        (X3,),
        [("w", "", "an einsum is not rewritten")],
        [False],
    ),
    Case(
        "bmm",
        {"w": weight(2, 4, 5)},
        lambda m, x: torch.bmm(x, m.w),
        (X3,),
        [("w", "", "a batched product (torch.bmm) is not rewritten")],
        [False],
    ),
    Case(
        "x @ batched w",
        {"w": weight(2, 4, 5)},
        lambda m, x: x @ m.w,
        (X3,),
        [("w", "", "a batched weight is not rewritten")],
        [False],
    ),
    Case(
        "bilinear",
        {"b": nn.Bilinear(4, 4, 3)},
        lambda m, x: m.b(x, x),
        (X,),
        [("b", "b", "a bilinear form is not rewritten")],
        [False],
    ),
    Case(
        "two parameters",
        {"fc": nn.Linear(4, 4), "a": weight(4, 2), "b": weight(2, 4)},
        lambda m, x: F.linear(x, m.fc.weight + m.a @ m.b),
        (X,),
        [("b", "", "both operands are parameters"), ("fc", "", "")],
        [False, False],
    ),
    Case(
        "learned queries",
        {"q": weight(3, 4), "fc": nn.Linear(4, 4)},
        lambda m, x: m.fc(m.q) + x[:1],
        (X,),
        [("fc", "fc", "")],
        [True],
    ),
    Case(
        "of a constant",
        {"fc": nn.Linear(4, 4)},
        lambda m, x: x + m.fc(torch.ones(2, 4)),
        (X,),
        [("fc", "fc", "")],
        [True],
    ),
    Case("activations", {"fc": nn.Linear(4, 4)}, lambda m, x: m.fc(x) @ x.T, (X,), [("fc", "fc", "")], [True]),
    Case(
        "a weight computed from the input",
        {"fc": nn.Linear(4, 16)},
        lambda m, x: F.linear(x, m.fc(x)[0].view(4, 4)),
        (X,),
        [("fc", "fc", "")],
        [True],
    ),
    Case(
        "a weight mixed with the input in place",
        {"w": weight(4, 4)},
        lambda m, x: x @ (m.w * 1).add_(x.mean()),
        (X,),
        [],
        [],
    ),
    Case(
        "a module called twice",
        {"fc": nn.Linear(4, 4)},
        lambda m, x: m.fc(m.fc(x)),
        (X,),
        [("fc", "fc", ""), ("fc", "fc", "")],
        [True, True],
    ),
    Case(
        "a module with two names",
        {"a": SHARED, "b": nn.Sequential(SHARED)},
        lambda m, x: m.b(m.a(x)),
        (X,),
        [("a", "a", ""), ("a", "a", "")],
        [True, True],
    ),
    Case(
        "tied weights",
        {"table": TABLE, "decoder": (tied := nn.Linear(4, 10, bias=False))},
        lambda m, x: m.decoder(m.table((x > 0).long())),
        (X,),
        [("decoder", "decoder", "")],
        [True],
    ),
    Case(
        "a weight from outside",
        {"table": nn.Embedding(10, 4), "decode": Outside()},
        lambda m, x: m.decode(x, m.table.weight),
        (X,),
        [("table", "decode", "its weight table.weight is handed in from outside decode")],
        [False],
    ),
    Case("conv1d", {"c": nn.Conv1d(3, 5, 2)}, lambda m, x: m.c(x), (X3,), [("c", "c", "")], [True]),
    Case("conv2d", {"c": nn.Conv2d(4, 5, 3)}, lambda m, x: m.c(x), (IMAGE,), [("c", "c", "")], [True]),
    Case("unbatched conv2d", {"c": nn.Conv2d(4, 5, 3)}, lambda m, x: m.c(x[0]), (IMAGE,), [("c", "c", "")], [True]),
    Case("conv3d", {"c": nn.Conv3d(1, 5, 2)}, lambda m, x: m.c(x[:, None]), (IMAGE,), [("c", "c", "")], [True]),
    Case(
        "string padding",
        {"c": nn.Conv2d(4, 5, 3, padding="same")},
        lambda m, x: m.c(x),
        (IMAGE,),
        [("c", "c", "")],
        [True],
    ),
    Case(
        "circular padding",
        {"c": nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular")},
        lambda m, x: m.c(x),
        (IMAGE,),
        [("c", "c", "")],
        [True],
    ),
    Case("groups", {"c": nn.Conv2d(4, 8, 3, groups=2)}, lambda m, x: m.c(x), (IMAGE,), [("c", "c", "")], [True]),
    Case("conv_transpose1d", {"c": nn.ConvTranspose1d(3, 5, 2)}, lambda m, x: m.c(x), (X3,), [("c", "c", "")], [True]),
    Case(
        "conv_transpose2d", {"c": nn.ConvTranspose2d(4, 5, 3)}, lambda m, x: m.c(x), (IMAGE,), [("c", "c", "")], [True]
    ),
    Case(
        "conv_transpose3d",
        {"c": nn.ConvTranspose3d(1, 5, 2)},
        lambda m, x: m.c(x[:, None]),
        (IMAGE,),
        [("c", "c", "")],
        [True],
    ),
    Case("F.conv2d", {"w": weight(5, 4, 3, 3)}, lambda m, x: F.conv2d(x, m.w, padding=1), (IMAGE,), [W4], [False]),
    Case("standardized", {"c": Standardized(4, 5, 3)}, lambda m, x: m.c(x), (IMAGE,), [("c", "c", "")], [False]),
    Case("weight_norm, old", {"fc": weight_normed()}, lambda m, x: m.fc(x), (X,), [("fc", "fc", "")], [True]),
    Case(
        "weight_norm",
        {"fc": parametrizations.weight_norm(nn.Linear(4, 4))},
        lambda m, x: m.fc(x),
        (X,),
        [("fc", "fc", "")],
        [False],
    ),
    Case(
        "orthogonal",
        {"fc": parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="householder")},
        lambda m, x: m.fc(x),
        (X,),
        [("fc", "fc.parametrizations.weight.0", HOUSEHOLDER), ("fc", "fc", "")],
        [False, False],
    ),
    Case(
        "recurrent",
        {"gru": nn.GRU(4, 5)},
        lambda m, x: m.gru(x)[0],
        (X3,),
        [("gru", "gru", "a recurrent layer is not rewritten")],
        [False],
    ),
]
tied.weight = TABLE.weight


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_found(case: Case) -> None:
    model = Model(case)
    checked = check(model, (case.inputs, {}))
    assert checked.captured.parts[0].method == "dynamo"
    assert [(s.name, s.module, s.problem) for s in checked.sites] == case.sites
    assert [s.plain for s in checked.sites] == case.plain
    assert checked.flops.forward == checked.reference.forward or "recurrent" in case.name
    for site in checked.sites:
        assert site.type == type(model.get_submodule(site.module)).__name__
        assert all(isinstance(model.get_parameter(name), nn.Parameter) for name in site.parameters)
        assert site.weight_shape is not None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_is_found_without_example_inputs(case: Case) -> None:
    model = Model(case)
    sites = find_sites(capture(model), model)
    assert {s.name for s in sites} == {name for name, _, _ in case.sites}


def sites_of(model: nn.Module, *inputs: torch.Tensor) -> list[Site]:
    return find_sites(capture(model, inputs), model)


def test_calls_are_numbered_per_layer() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(self.b(self.a(self.a(x))))

    assert [(s.name, s.call) for s in sites_of(Repeated(), X)] == [("a", 0), ("a", 1), ("b", 0), ("a", 2)]


def test_calls_are_numbered_across_graphs() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            torch._dynamo.graph_break()
            return self.a(x)

    assert [(s.name, s.call) for s in sites_of(Repeated(), X)] == [("a", 0), ("a", 1)]


def test_first_and_last_on_branches() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("left", "right", "middle", "head", "aux", "alone"):
                setattr(self, name, nn.Linear(4, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            middle = self.middle(self.left(x) + self.right(x.relu()))
            return self.head(middle), self.aux(middle), self.alone(x)

    sites = sites_of(Branching(), X)
    assert {s.name for s in sites if s.first} == {"left", "right", "alone"}
    assert {s.name for s in sites if s.last} == {"head", "aux", "alone"}


def test_first_and_last_see_through_writes_in_place() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            buffer = torch.zeros(2, 2, 4)
            buffer[:, 0] = self.a(x)
            row = buffer[:, 1]
            row.copy_(self.b(x))
            return self.c(buffer)

    sites = sites_of(Writing(), X)
    assert [(s.name, s.first, s.last) for s in sites] == [("a", True, False), ("b", True, False), ("c", False, True)]


def test_frozen_weights_and_inputs_need_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    assert [s.needs_grad for s in sites_of(model, X)] == [(False, False), (False, True), (True, False)]
    assert [s.needs_grad[1] for s in find_sites(capture(model), model)] == [False, True, False]


@pytest.mark.parametrize(
    ("layer", "inputs", "channels"),
    [
        (nn.Linear(4, 6), X, 6),
        (nn.Conv2d(4, 6, 3, groups=2), IMAGE, 6),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), IMAGE, 6),
        (Conv1D(4, 6), X3, 6),
        (nn.GRU(4, 6), X3, None),
    ],
    ids=["linear", "conv", "transposed", "addmm", "recurrent"],
)
def test_out_channels(layer: nn.Module, inputs: torch.Tensor, channels: int | None) -> None:
    (site,) = sites_of(layer, inputs)
    assert site.out_channels == channels


def test_attention_to_something_else() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.MultiheadAttention(8, 2, batch_first=True)
            self.other = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)

        def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            x = self.one(x, x, x)[0]
            return self.other(x, k, v)[0]

    model = Cross()
    inputs = (torch.randn(2, 3, 8), torch.randn(2, 5, 4), torch.randn(2, 5, 6))
    checked = check(model, (inputs, {}))
    assert [(s.module, s.parameters[-1]) for s in checked.sites] == [
        ("one", "one.in_proj_weight"),
        ("one", "one.out_proj.weight"),
        ("other", "other.q_proj_weight"),
        ("other", "other.k_proj_weight"),
        ("other", "other.v_proj_weight"),
        ("other", "other.out_proj.weight"),
    ]
    assert calls(checked.sites, model) == checked.reference.products


def test_a_model_without_products_has_no_sites() -> None:
    assert sites_of(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), X) == []
    assert find_sites(capture(nn.ReLU()), nn.ReLU()) == []
