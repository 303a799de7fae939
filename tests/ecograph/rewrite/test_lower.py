from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ecograph
from ecograph.passes import SparseBackward
from ecograph.passes.sparse_backward.modules import SparseConv2d, SparseLinear
from ecograph.record import records
from ecograph.rewrite.route import RoutedForward

ALL = {"schedule": "constant", "when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}
PASS = SparseBackward(0.5, **ALL)


class OwnForward(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Borrower(nn.Module):
    """Multiplies by its child's weight itself, and calls the child too."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.child(x), self.child.weight)


def test_a_plain_layer_changes_its_class_and_a_custom_one_its_forward() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 6), OwnForward(6, 6))
    ecograph.optimize(model, passes=[PASS])
    assert [type(m) for m in model] == [SparseConv2d, nn.Flatten, SparseLinear, OwnForward]
    assert isinstance(model[3].forward, RoutedForward)
    assert "forward" not in model[2].__dict__
    lowered = records(model)[0].lowered
    assert [(change.path, change.original) for change in lowered] == [("0", nn.Conv2d), ("2", nn.Linear), ("3", None)]


@pytest.mark.parametrize("with_inputs", [True, False])
def test_a_borrowed_weight_is_sparse_in_both_products(with_inputs: bool) -> None:
    model = Borrower().double()
    x = torch.randn(5, 6, dtype=torch.float64)
    plain = copy.deepcopy(model)
    ecograph.optimize(model, example_inputs=x if with_inputs else None, passes=[PASS])
    assert type(model.child) is SparseLinear
    assert isinstance(model.forward, RoutedForward)
    assert torch.equal(model(x), plain(x))
    cotangent = torch.randn(5, 6, dtype=torch.float64)
    model(x).backward(cotangent)

    def keep_half(grad: Tensor) -> Tensor:
        kept = torch.zeros_like(grad)
        strongest = grad.abs().sum(0).topk(3).indices
        kept[:, strongest] = grad[:, strongest]
        return kept

    weight = plain.child.weight
    hidden = (x @ weight.T).detach()
    outer = keep_half(cotangent)
    inner = keep_half(outer @ weight)
    torch.testing.assert_close(model.child.weight.grad, outer.T @ hidden + inner.T @ x)


def test_the_same_layer_at_two_places_is_changed_once_and_restored_once() -> None:
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    ecograph.optimize(model, passes=[PASS])
    assert type(shared) is SparseLinear
    x = torch.randn(4, 6)
    model(x).sum().backward()
    ecograph.restore(model)
    assert type(shared) is nn.Linear
    assert "sparse" not in shared.__dict__


def test_a_layer_is_sparse_only_where_all_its_calls_may_be() -> None:
    """The first call is the model's first layer, which skip_first leaves dense; so the layer is dense."""
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(6, 2))
    options = SparseBackward(0.5, when="always", min_channels=1, skip_last=False)
    ecograph.optimize(model, passes=[options])
    assert [layer.reason for layer in ecograph.explain(model).layers] == [
        "first layer (skip_first)", "first layer (skip_first)", "",
    ]  # fmt: skip
    assert type(shared) is nn.Linear


def test_a_module_is_restored_where_it_has_moved_within_the_model() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6)), nn.Linear(6, 6))
    ecograph.optimize(model, passes=[PASS])
    first, second = model[0][0], model[1]
    model[0][0], model[1] = second, first
    ecograph.restore(model)
    assert type(first) is type(second) is nn.Linear
