"""Capture without example inputs: whole where it can be traced, else in parts, and never a backward lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from ecograph.analysis import find_sites
from ecograph.capture import capture
from ecograph.capture.graph import MODULE, PARAMETER


def names(model: nn.Module) -> list[str]:
    return [site.name for site in find_sites(capture(model), model)]


def test_a_plain_model_is_one_graph_without_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    captured = capture(model)
    assert [(p.path, p.method, p.note) for p in captured.parts] == [("", "symbolic", "")]
    assert not captured.shapes
    assert not captured.cut
    sites = find_sites(captured, model)
    assert [(s.name, s.plain, s.first, s.last) for s in sites] == [("0", True, True, False), ("4", True, False, True)]
    assert [s.weight_shape for s in sites] == [(4, 3, 3, 3), (2, 4)]
    assert [s.output_shape for s in sites] == [None, None]


class Twice(torch.autograd.Function):
    """The identity, with twice the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return 2 * grads[0]


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Twice.apply(self.inner(x))  # type: ignore[no-untyped-call, no-any-return]


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.doubling, self.after = nn.Linear(4, 4), Doubling(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.doubling(self.before(x)))


def gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None
    return x.grad


def test_plain_tracing_loses_the_backward_of_an_autograd_function() -> None:
    """Why ours must not trace through one. If torch ever changes this, the guard in symbolic.py can go."""
    model, x = Doubling(), torch.randn(2, 4)
    traced = fx.symbolic_trace(model)
    assert torch.equal(traced(x), model(x))
    assert not torch.allclose(gradient(traced, x), gradient(model, x))
    assert torch.allclose(2 * gradient(traced, x), gradient(model, x))


def test_ours_keeps_the_backward_of_an_autograd_function() -> None:
    model, x = Around(), torch.randn(2, 4)
    captured = capture(model)
    (part,) = (p for p in captured.parts if p.path == "doubling")
    assert part.method == "none"
    assert "autograd.Function" in part.note
    whole = captured.graphs[0]
    assert [n.target for n in whole.nodes if n.op == "call_module"] == ["doubling"]
    assert torch.allclose(gradient(whole.module, x), gradient(model, x))
    assert sorted(names(model)) == ["after", "before", "doubling.inner"]


def test_the_guard_is_gone_afterwards() -> None:
    x = torch.randn(2, 4)
    capture(Around())
    assert torch.equal(gradient(Around(), x) * 0, torch.zeros(2, 4))
    Twice.apply(x)  # type: ignore[no-untyped-call]


class Deciding(nn.Module):
    """Python that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) if x.sum() > 0 else self.second(x)


def test_what_cannot_be_traced_is_captured_child_by_child() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Deciding(), nn.Linear(4, 2))
    captured = capture(model)
    assert [p.path for p in captured.parts if p.method == "symbolic"] == ["", "1.first", "1.second"]
    (reason,) = (p.note for p in captured.parts if p.method == "none")
    assert "control flow" in reason
    assert sorted(names(model)) == ["0", "1.first", "1.second", "2"]
    assert [g.path for g in captured.graphs] == ["", "1.first", "1.second"]


def test_an_attempt_that_fails_late_leaves_nothing_of_itself_behind() -> None:
    class Late(nn.Module):
        def __init__(self, shared: nn.Parameter) -> None:
            super().__init__()
            self.inner, self.shared = nn.Linear(4, 4), shared

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.inner(x) @ self.shared
            return x if x.sum() > 0 else -x

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Parameter(torch.randn(4, 4))
            self.late, self.after = Late(self.shared), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.after(self.late(x) @ self.shared)

    model = Root()
    captured = capture(model)
    captured.graphs[0].module.graph.lint()
    assert [p.path for p in captured.parts] == ["", "late", "late.inner"]
    assert sorted(names(model)) == ["after", "late.inner", "shared"]
    assert {n.meta[MODULE] for n in captured.graphs[0].nodes if n.target is F.linear} == {"after"}


def test_optional_arguments_take_their_default() -> None:
    """Traced as symbols, ``mask is None`` would be False, and the branch that trains would be missed."""

    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.usual, self.masked = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, flag: bool = True) -> torch.Tensor:
            if mask is not None:
                return self.masked(x * mask)
            return self.usual(x) if flag else x

    assert names(Optional()) == ["usual"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.MultiheadAttention(4, 2), ["attention", "attention.out_proj"]),
        (nn.MultiheadAttention(4, 2, kdim=3, vdim=5), ["q", "k", "v", "attention.out_proj"]),
    ],
    ids=["packed", "kdim and vdim"],
)
def test_the_projections_of_attention_are_found(layer: nn.Module, expected: list[str]) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x)[0]

    model = Attending()
    sites = find_sites(capture(model), model)
    assert len(sites) == len(expected)
    assert {site.module for site in sites} == {"attention"}
    assert not any(site.problem for site in sites)


class Same(nn.Conv2d):
    """Padding that depends on the image, as in TensorFlow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad = max(int(x.shape[-1]) % 4 - 1, 0)
        return F.conv2d(F.pad(x, (pad, 0)), self.weight, self.bias, self.stride)


@pytest.mark.parametrize(
    "layer",
    [Same(3, 4, 3, stride=2), Same(3, 4, 3).to(torch.float64), nn.LSTM(3, 4), nn.GRU(3, 4), nn.LSTMCell(3, 4)],
    ids=["conv", "double", "lstm", "gru", "cell"],
)
def test_layers_that_look_at_shapes_are_captured_on_an_input_of_made_up_size(layer: nn.Module) -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(x)

    model = Holding()
    captured = capture(model)
    (part,) = (p for p in captured.parts if p.path == "layer")
    assert part.method == "symbolic"
    assert "made-up size" in part.note
    assert not captured.shapes
    (site,) = find_sites(captured, model)
    assert (site.name, site.module) == ("layer", "layer")
    assert site.output_shape is None
    assert site.input_shape is None
    assert not any("example_value" in n.meta for g in captured.graphs for n in g.nodes)


def test_functions_that_are_kept_from_tracing_do_not_hide_weights() -> None:
    class Wrapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.after = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.after(wrapped(x, self.inner.weight))

    assert sorted(names(Wrapping())) == ["after", "inner"]


def wrapped(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight) if x.shape[0] > 1 else x


fx.wrap("wrapped")


def test_shared_layers_that_fail_are_captured_once() -> None:
    shared = Deciding()
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert sorted(names(model)) == ["0.first", "0.second"]


def test_parameters_are_named_from_the_root_in_every_part() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Deciding())
    found = {n.meta[PARAMETER] for g in capture(model).graphs for n in g.nodes if PARAMETER in n.meta}
    assert found == {name for name, _ in model.named_parameters()}


def test_meta_models_can_be_traced() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), Same(4, 4, 3))
    assert names(model) == ["0", "1"]
