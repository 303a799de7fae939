"""What several passes together decide, with passes made up for the purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import ecograph
from ecograph.analysis import Site, find_sites
from ecograph.capture import capture
from ecograph.cost.flops import Flops
from ecograph.optimize import compile_graphs
from ecograph.passes import SparseBackward
from ecograph.passes.sparse_backward import sparse_conv, sparse_linear
from ecograph.record import records
from ecograph.rewrite import Pass, plan
from ecograph.schedule import Rate


class Halved:
    """A layer that computes half of the product: easy to see in the output."""

    def __init__(self, rate: Rate, dense_because: str | None) -> None:
        self.rate, self.dense_because = rate, dense_because

    def acts(self, training: bool) -> bool:
        return training

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(input, weight, bias) / 2

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("no convolution here")

    def cost(self, plain: Flops, rate: float, channels: int | None = None) -> Flops:
        return Flops(plain.forward // 2, plain.grad_input, plain.grad_weight)


class HalveNamed:
    """A third party's pass: takes the layers with the given names."""

    name, numerics, source = "halve", "approximate", "made up"
    replacements: Mapping[type[nn.Module], type[nn.Module]] = {}
    attribute = "halved"

    def __init__(self, *names: str) -> None:
        self.names = names

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "names": list(self.names)}

    def make_rate(self) -> Rate:
        return Rate(1.0, "constant")

    def match(self, sites: Sequence[Site], model: nn.Module) -> list[str | None]:
        return ["" if site.name in self.names else "not named" for site in sites]

    def rewrite(self, graph: fx.Graph, site: Site) -> fx.Node:
        return site.node

    def cost(self, site: Site, plain: Flops, rate: float) -> Flops:
        return plain

    def layer(self, site: Site, rate: Rate, dense_because: str | None) -> Halved:
        return Halved(rate, dense_because)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


SPARSE = SparseBackward(0.5, schedule="constant", when="always", skip_first=False, skip_last=False, min_channels=1)


def test_a_pass_is_known_by_its_members() -> None:
    assert isinstance(SparseBackward(), Pass)
    assert isinstance(HalveNamed(), Pass)
    assert not isinstance(nn.Linear(1, 1), Pass)


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([SPARSE], ["sparse_backward"] * 3),
        ([HalveNamed("2")], ["", "halve", ""]),
    ],
)
def test_passes_take_layers(passes: list[Any], expected: list[str]) -> None:
    model = net()
    made = plan(passes, find_sites(capture(model, torch.randn(2, 6)), model), model)
    assert [choice.pass_.name if choice.layer else "" for choice in made.choices] == expected
    assert len(made.rates) == len(passes)


def test_the_first_pass_that_takes_a_layer_has_it_and_the_others_go_on() -> None:
    model = ecograph.optimize(net(), passes=[HalveNamed("2"), SPARSE])
    layers = ecograph.explain(model).layers
    assert [layer.rewritten_by for layer in layers] == ["sparse_backward", "halve", "sparse_backward"]
    assert [layer.reason for layer in layers] == ["", "", ""]
    only_last = SparseBackward(0.5, when="always", min_channels=1, skip_last=False)
    both_refuse = ecograph.optimize(net(), passes=[HalveNamed("2"), only_last])
    assert [layer.reason for layer in ecograph.explain(both_refuse).layers] == ["not named", "", ""]
    turned = ecograph.optimize(net(), passes=[SPARSE, HalveNamed("2")])
    assert [layer.rewritten_by for layer in ecograph.explain(turned).layers] == ["sparse_backward"] * 3


def test_a_third_partys_layer_is_what_runs() -> None:
    model = ecograph.optimize(net(), passes=[HalveNamed("4")])
    plain = ecograph.restore(ecograph.optimize(net(), passes=[SPARSE]))
    plain.load_state_dict(model.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(model(x), plain(x) / 2)
    assert torch.equal(model.eval()(x), plain(x)), "in eval mode the plain forward runs"


def test_every_pass_has_a_rate_of_its_own() -> None:
    model = ecograph.optimize(net(), passes=[HalveNamed("2"), SPARSE])
    rates = records(model)[0].rates
    assert [rate.peak for rate in rates] == [1.0, 0.5]
    layers = [site.layer for site in records(model)[0].sites]
    assert [layer.rate for layer in layers] == [rates[1], rates[0], rates[1]]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2, stride=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, output_padding=1)
        self.w = nn.Parameter(torch.randn(4, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.grouped(torch.relu(self.conv(x)))))
        return self.head(torch.relu(x.mean((2, 3)) @ self.w))


def test_rewritten_graphs_hold_the_sparse_ops_and_run() -> None:
    """The graphs that ``inspect`` prints compute what the model computes, with the sparse backward."""
    model, x = Mixed(), torch.randn(2, 3, 8, 8)
    captured, made, codes = compile_graphs(model, example_inputs=x, passes=[SPARSE])
    (graph,) = captured.graphs
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    assert targets.count(sparse_conv) == 3
    assert targets.count(sparse_linear) == 2
    ((before, after),) = codes
    assert before.count("sparse_") == 0
    assert after.count("sparse_conv(") == 3
    assert all(choice.pass_ is SPARSE for choice in made.rewritten)
    assert not records(model), "the model is not touched"
    assert type(model.conv) is nn.Conv2d

    parameters = dict(model.named_parameters())
    arguments = [
        parameters[node.meta["ecograph_parameter"]] if "ecograph_parameter" in node.meta else x
        for node in graph.nodes
        if node.op == "placeholder"
    ]
    (output,) = graph.module(*arguments)
    assert torch.equal(output, model(x))
    output.square().sum().backward()
    assert model.head.bias.grad.count_nonzero() == 2
    assert model.conv.bias.grad.count_nonzero() == 4
    assert model.grouped.bias.grad.view(2, 4).count_nonzero(1).tolist() == [2, 2]
    from_graph = {name: p.grad.clone() for name, p in parameters.items()}
    model.zero_grad()
    ecograph.optimize(model, example_inputs=x, passes=[SPARSE])
    model(x).square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(from_graph[name], parameter.grad)


def test_cost_of_a_site_at_a_rate() -> None:
    model = net()
    sites = find_sites(capture(model, torch.randn(10, 6)), model)
    plain = Flops(2 * 10 * 6 * 8, 0, 2 * 10 * 6 * 8)
    assert SPARSE.cost(sites[0], plain, 0.0) == plain
    assert SPARSE.cost(sites[0], plain, 0.5) == Flops(960, 0, 480)
    assert SparseBackward(0.5, grads=("input",)).cost(sites[1], Flops(8, 8, 8), 0.5) == Flops(8, 4, 8)
