"""What has no rule, or goes unsaid in one, stops; and says so by the names of op and module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structure import Structure
from torch import Tensor, nn

from ecograph.analysis import find_sites
from ecograph.analysis.channels import find_channels
from ecograph.analysis.rules import RULES
from ecograph.capture import capture


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = Called(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.between(self.fc1(x)))


class Called(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 3


def written(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = 0.0
    return x


STOPPING = [
    (lambda x: torch.fft.fft(x).real, "there is no rule for fft_fft in between"),
    (lambda x: x.sort(-1)[0], "there is no rule for sort in between"),
    (lambda x: x.max(-1, keepdim=True)[0] + x, "there is no rule for max in between"),
    (lambda x: F.pixel_shuffle(x[None, :, :, None], 1)[0, :, :, 0], "there is no rule for pixel_shuffle in between"),
    (lambda x: F.rrelu(x), "there is no rule for rrelu in between"),
    (lambda x: x + torch.arange(8), "there is no rule for arange in between"),
    (lambda x: x + torch.zeros(x.shape), "there is no rule for zeros in between"),
    (lambda x: x.index_select(1, torch.arange(8)), "there is no rule for index_select in between"),
    (lambda x: torch.ops.aten.relu.default(x), "there is no rule for relu.default in between"),
    (written, "there is no rule for setitem in between"),
    (lambda x: x * x.mean(-1, keepdim=True), "mean in between runs over it"),
    (lambda x: x.flip(-1), "flip in between does not keep it"),
    (lambda x: x[:, torch.arange(7, -1, -1)], "getitem in between does not keep it"),
    (lambda x: x.softmax(-1), "softmax in between runs along it"),
    (lambda x: F.layer_norm(x, (8,)), "layer_norm in between normalizes over it"),
]


@pytest.mark.parametrize(("function", "why"), STOPPING, ids=[why for _, why in STOPPING])
def test_a_call_that_is_not_known_to_pass_units_on_stops_the_group(function: Any, why: str) -> None:
    model = Between(function)
    captured = capture(model, (torch.randn(4, 6),))
    channels = find_channels(captured, find_sites(captured, model), model)
    assert not channels.groups
    assert [s.reason for s in channels.stopped if s.name == "fc1"] == [why]


def test_a_function_with_a_backward_of_its_own_stops_the_group() -> None:
    model = Between(Doubled.apply)
    captured = capture(model, (torch.randn(4, 6),))
    channels = find_channels(captured, find_sites(captured, model), model)
    assert not channels.groups
    (reason,) = (s.reason for s in channels.stopped if s.name == "fc1")
    assert "autograd" in reason.lower()
    assert "between" in reason


def test_a_dimension_that_a_rule_does_not_mention_is_stopped() -> None:
    structure = Structure(lambda a: a.narrow(1, 1, 2), [torch.randn(2, 3, 4)])
    assert structure.reasons() == {"narrow does not keep it"}
    stopped = {structure.names[part] for part in structure.dimensions.stops}
    assert stopped == {"a1", "y1"}


def test_no_name_has_two_rules() -> None:
    from ecograph.analysis.rules import elementwise, norms, products, shapes

    tables = [each.RULES for each in (elementwise, shapes, norms, products)]
    assert sum(map(len, tables)) == len(RULES)
    assert len({*elementwise.NAMES, *elementwise.LIKE_FIRST}) == len(elementwise.NAMES) + len(elementwise.LIKE_FIRST)
