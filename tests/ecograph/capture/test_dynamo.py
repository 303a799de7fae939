"""What Dynamo's graphs say about a model, also where it takes several of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils.checkpoint import checkpoint
from zoo.checks import calls, check, total_flops
from zoo.counting import reference

from ecograph.analysis import find_sites
from ecograph.capture import capture
from ecograph.capture.graph import BUFFER, MODULE, PARAMETER, module_path, parameter_name, shape


class Cut(nn.Module):
    """A layer, a cut, and the same layer again with other weights; the second call is of a nested module."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.scale = nn.Parameter(torch.ones(8, 8))
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.before(x))
        torch._dynamo.graph_break()
        return self.inner(x @ self.scale)


class Cuts(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.stages = nn.ModuleList(nn.ModuleDict({"block": Cut()}) for _ in range(depth))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage["block"](x)
        return self.head(x)


def test_a_graph_that_dynamo_reuses_is_labelled_with_the_layer_it_ran_in() -> None:
    model = Cuts()
    checked = check(model, ((torch.randn(4, 8),), {}))
    graphs = checked.captured.graphs
    assert len(graphs) > 4, "the model must be cut for this test to test anything"
    assert calls(checked.sites, model) == checked.reference.products
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward
    assert [site.name for site in checked.sites if site.first] == ["stem"]
    assert [site.name for site in checked.sites if site.last] == ["head"]


def test_reused_graphs_do_not_share_nodes_and_buffers_are_relabelled_too() -> None:
    captured = capture(Cuts(), torch.randn(4, 8))
    nodes = [node for graph in captured.graphs for node in graph.nodes]
    assert len(nodes) == len(set(nodes))
    buffers = {node.meta[BUFFER] for node in nodes if BUFFER in node.meta}
    assert {f"stages.{i}.block.norm.running_mean" for i in range(4)} <= buffers
    for node in nodes:
        if node.target is F.batch_norm:
            mean = next(n for n in node.all_input_nodes if n.meta.get(BUFFER, "").endswith("running_mean"))
            assert mean.meta[BUFFER] == f"{module_path(node)}.running_mean"


def test_the_reason_for_a_cut_is_recorded() -> None:
    captured = capture(Cuts(2), torch.randn(4, 8))
    assert captured.cut
    assert captured.parts[0].method == "dynamo"
    assert "graph_break" in captured.parts[0].note
    whole = capture(nn.Linear(8, 8), torch.randn(4, 8))
    assert not whole.cut
    assert whole.parts[0].note == ""


def test_every_node_knows_its_module_and_every_tensor_its_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.Linear(144, 2)))
    captured = capture(model, torch.randn(2, 3, 8, 8))
    graph = captured.graphs[0]
    assert graph.path == ""
    names = {parameter_name(n) for n in graph.nodes} - {None}
    assert names == {name for name, _ in model.named_parameters()}
    assert {n.meta[BUFFER] for n in graph.nodes if BUFFER in n.meta} == {name for name, _ in model.named_buffers()}
    assert all(MODULE in node.meta for node in graph.nodes)
    assert {module_path(n) for n in graph.nodes if n.op == "call_function"} >= {"0", "1", "2.1"}


def test_data_dependent_python_runs_on_the_example_inputs() -> None:
    class Dependent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.low, self.high = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = self.gate(x)
            return self.high(gate) if gate.mean().item() > 0 else self.low(gate)

    model = Dependent()
    nn.init.zeros_(model.gate.weight)
    nn.init.ones_(model.gate.bias)
    captured = capture(model, torch.randn(2, 4))
    assert "depends on data" in captured.parts[0].note
    assert captured.shapes
    sites = {site.name: site for site in find_sites(captured, model)}
    assert set(sites) == {"gate", "high", "low"}, "the branch that was not taken is found too"
    assert sites["high"].output_shape == (2, 4)
    assert sites["low"].output_shape is None
    assert sites["low"].graph.method == "symbolic"
    assert not sites["low"].last
    assert sites["high"].last
    assert any(p.path == "low" and "not met" in p.note for p in captured.parts)


def test_layers_that_are_dropped_at_random_are_found() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                if torch.rand(()).item() > 0.5:
                    x = layer(x)
            return x

    model = Dropping()
    names = {site.name for site in find_sites(capture(model, torch.randn(2, 4)), model)}
    assert names == {f"layers.{i}" for i in range(6)}


def test_layers_in_code_that_is_kept_from_dynamo_are_found() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        @torch.compiler.disable
        def hidden(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.hidden(self.first(x))

    model = Hidden()
    assert [s.name for s in find_sites(capture(model, torch.randn(2, 4)), model)] == ["first", "second"]


def test_layers_that_are_not_used_are_not_sites() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Unused()
    assert [s.name for s in find_sites(capture(model, torch.randn(2, 4)), model)] == ["used"]


def test_without_dynamo_a_model_is_traced_symbolically() -> None:
    with torch._dynamo.config.patch(disable=True):
        captured = capture(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4))
    assert captured.parts[0].method == "none"
    assert "Dynamo recorded no graph" in captured.parts[0].note
    assert captured.graphs[0].method == "symbolic"
    assert not captured.shapes


def test_layers_are_captured_one_by_one_where_dynamo_gives_up_on_what_calls_them() -> None:
    class Looping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True), nn.GRU(4, 4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                torch._dynamo.graph_break()
                x = (
                    layer(x)
                    if isinstance(layer, nn.Linear)
                    else layer(*[x] * (3 if len(list(layer.children())) else 1))[0]
                )
            return x

    model = Looping()
    checked = check(model, ((torch.randn(2, 3, 4),), {}))
    assert checked.captured.graphs[0].method == "dynamo"
    assert [(s.module, s.output_shape is None) for s in checked.sites] == [
        ("layers.0", False),
        ("layers.1", False),
        ("layers.1", False),
        ("layers.2", True),  # a recurrent layer gives a tuple
    ]
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward


def test_meta_models_are_captured_whole() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    captured = capture(model, torch.randn(2, 3, 8, 8))
    assert [s.output_shape for s in find_sites(captured, model)] == [(2, 4, 6, 6)]
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("mode", [True, False])
def test_the_graph_is_that_of_training_whatever_the_models_mode(mode: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train(mode)
    captured = capture(model, torch.randn(2, 4))
    drop = next(n for n in captured.graphs[0].nodes if n.target is F.dropout)
    assert True in drop.args
    assert model.training is mode


# -- graphs inside graphs ----------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh()) for _ in range(2)
        )
        self.last = nn.Linear(4, 2)
        self.use_reentrant = use_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.last(x)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    model = Checkpointed(use_reentrant)
    checked = check(model, ((torch.randn(3, 4),), {}))
    assert [s.name for s in checked.sites] == ["first", "blocks.0.0", "blocks.0.2", "blocks.1.0", "blocks.1.2", "last"]
    assert [s.module for s in checked.sites] == [s.name for s in checked.sites]
    assert all(s.plain for s in checked.sites)
    assert [s.name for s in checked.sites if s.first] == ["first"]
    assert [s.name for s in checked.sites if s.last] == ["last"]
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.recomputed == 2 * 2 * 3 * (4 * 8 + 8 * 4)
    assert checked.flops.backward == checked.reference.backward, "the forward that runs again is counted"


class Doubled(torch.autograd.Function):
    """A product whose gradient is twice what autograd would say."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        return 2 * grads[0] @ weight.t(), x.t() @ grads[0]


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(Doubled.apply(self.before(x), self.weight))  # type: ignore[no-untyped-call]


def test_a_product_inside_an_autograd_function_is_listed_and_left_alone() -> None:
    model = Custom()
    checked = check(model, ((torch.randn(3, 4),), {}))
    problems = {site.name: site.problem for site in checked.sites}
    assert problems == {
        "before": "",
        "weight": "it is called inside an autograd.Function, which has a backward of its own",
        "after": "",
    }
    assert [s.name for s in checked.sites if s.first] == ["before"]
    assert [s.name for s in checked.sites if s.last] == ["after"]
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward, "what its backward computes is counted"


def test_the_branches_of_cond_are_both_seen() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.yes, self.no = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: self.yes(x), lambda x: self.no(x), (x,))

    model = Branches()
    captured = capture(model, torch.randn(2, 4))
    assert {s.name for s in find_sites(captured, model)} == {"yes", "no"}


def test_nested_parameters_are_named() -> None:
    graph = capture(Checkpointed(False), torch.randn(3, 4)).graphs[0]
    inside = [nested.graph for calls in graph.nested.values() for nested in calls]
    assert len(inside) == 2
    named = {n.meta[PARAMETER] for g in inside for n in g.nodes if PARAMETER in n.meta}
    assert named == {f"blocks.{i}.{j}.{kind}" for i in (0, 1) for j in (0, 2) for kind in ("weight", "bias")}


# -- multi-head attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_width", [True, False], ids=["one width", "kdim and vdim"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_projections_of_attention_are_visible(own_width: bool, need_weights: bool) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = {} if own_width else {"kdim": 6, "vdim": 10}
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.attention(q, k, v, need_weights=need_weights)[0]

    model = Attending()
    k, v = (torch.randn(2, 5, 8), torch.randn(2, 5, 8)) if own_width else (torch.randn(2, 5, 6), torch.randn(2, 5, 10))
    checked = check(model, ((torch.randn(2, 3, 8), k, v), {}))
    assert len(checked.sites) == 4
    assert {s.module for s in checked.sites} == {"attention"}
    assert not any(s.problem or s.plain for s in checked.sites)
    assert calls(checked.sites, model) == checked.reference.products
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward


def test_graphs_can_be_run_by_hand() -> None:
    """What inspect prints is a program: with the parameters handed in it computes what the model does."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = capture(model, x).graphs[0]
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    arguments = [
        state[name] if (name := n.meta.get(PARAMETER) or n.meta.get(BUFFER)) else x
        for n in graph.nodes
        if n.op == "placeholder"
    ]
    (output,) = fx.Interpreter(graph.module).run(*arguments)
    model[1].reset_running_stats()
    assert torch.equal(output, model(x))
    assert shape(next(n for n in graph.nodes if n.target is torch.conv2d)) == (2, 4, 6, 6)


def test_totals_of_a_cut_model_are_those_of_the_step() -> None:
    model = Cuts(3)
    x = torch.randn(4, 8)
    flops = total_flops(capture(model, x))
    ran = reference(model, ((x,), {}))
    assert (flops.forward, flops.backward) == (ran.forward, ran.backward)
