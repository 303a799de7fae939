"""``lower="graph"``: the graph stands for the model."""

import copy
import pickle

import pytest
import torch
from torch import nn

import ecograph
from ecograph.passes import SparseBackward
from ecograph.rewrite.graph_module import RewrittenGraph

EVERYWHERE = {"when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}


class Net(nn.Module):
    """Plain layers, a custom product, packed attention, a buffer that is not saved and a layer that is not used."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding="same")
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.weight = nn.Parameter(torch.randn(16, 16) / 4)
        self.unused = nn.Linear(3, 3)
        self.register_buffer("scale", torch.full((), 2.0), persistent=False)

    def forward(self, x, gain=None, flag=True):
        x = self.grouped(self.norm(self.conv(x)).relu()).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]
        x = x @ self.weight.T * self.scale
        return {"out": x if gain is None else x * gain, "more": (x.sum(), 3)}


def batch():
    return (torch.randn(2, 3, 6, 6),), {"gain": torch.tensor(0.5)}


def lowered(model, lower, drop=0.5, schedule="constant"):
    passes = [SparseBackward(drop, schedule=schedule, **EVERYWHERE)]
    return ecograph.optimize(model, example_inputs=batch(), passes=passes, lower=lower)


def gradients(model, args, kwargs):
    model.zero_grad()
    output = model(*args, **kwargs)
    output["out"].square().sum().backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_graph_trains_like_the_lowered_model():
    torch.manual_seed(0)
    model = Net()
    other = copy.deepcopy(model)
    graph, reference = lowered(model, "graph"), lowered(other, "model")
    args, kwargs = batch()
    output, grads = gradients(graph, args, kwargs)
    expected, expected_grads = gradients(reference, args, kwargs)
    assert torch.equal(output["out"], expected["out"])
    assert output["more"][1] == 3
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name])
    assert torch.equal(model.norm.running_mean, other.norm.running_mean)


def test_graph_holds_the_models_tensors_under_their_names():
    model = Net()
    before = {name: type(module) for name, module in model.named_modules()}
    graph = lowered(model, "graph")
    assert isinstance(graph, RewrittenGraph)
    assert {n: id(p) for n, p in graph.named_parameters()} == {n: id(p) for n, p in model.named_parameters()}
    assert graph.state_dict().keys() == model.state_dict().keys()
    model.load_state_dict(graph.state_dict(), strict=True)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert ecograph.restore(graph) is model


def test_rate_changes_between_steps():
    graph = lowered(Net(), "graph", schedule="alternate")
    scheduler = ecograph.Scheduler(graph, epochs=2, steps_per_epoch=1)
    args, kwargs = batch()
    rows = []
    for _ in range(2):
        rows.append(int(gradients(graph, args, kwargs)[1]["conv.weight"].flatten(1).any(1).sum()))
        scheduler.step()
    assert rows == [16, 8]


def test_deepcopy_keeps_record_and_rates_together():
    graph = lowered(Net(), "graph", schedule="alternate")
    twin = copy.deepcopy(graph)
    ecograph.Scheduler(twin, epochs=2, steps_per_epoch=1).step()  # the twin is sparse now, the original is not
    args, kwargs = batch()
    assert int(gradients(twin, args, kwargs)[1]["conv.weight"].flatten(1).any(1).sum()) == 8
    assert int(gradients(graph, args, kwargs)[1]["conv.weight"].flatten(1).any(1).sum()) == 16


def test_eval_and_pickle_are_refused_with_the_way_out():
    graph = lowered(Net(), "graph")
    with pytest.raises(RuntimeError, match="ecograph.restore"):
        graph.eval()
    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(graph)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x) if x.sum().item() > 0 else x


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(Branching(), torch.ones(2, 8)), (nn.Linear(8, 8), None)],
    ids=["two graphs", "no example inputs"],
)
def test_what_is_not_one_graph_is_refused(model, inputs):
    with pytest.raises(ValueError, match="lower='model'"):
        ecograph.optimize(model, example_inputs=inputs, passes=[SparseBackward(0.5, **EVERYWHERE)], lower="graph")
