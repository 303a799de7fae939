from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ecograph
from ecograph.advice import Advice, Row, Setting, advise
from ecograph.advice import advise as _advise  # noqa: F401 - the package, before its module is asked for
from ecograph.advice.auto import find_switches


@pytest.fixture
def advised(net, images, monkeypatch):
    """A model about which advice was given: what is best is up to the test."""
    import sys

    module = sys.modules["ecograph.advice.advise"]

    def give(setting: Setting) -> nn.Module:
        rows = [Row(Setting(), seconds=1.0, time_ratio=1.0), Row(setting, seconds=0.5, time_ratio=0.5)]
        module._LAST[net] = Advice("Net", "cpu", 8, "torch.optim.SGD", rows, setting, setting, 1.0)
        return net

    return give


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by torch's compiler, of its own code
def test_applies_what_advise_found(advised, images):
    model = advised(Setting(channels_last=True, compile=True, threads=1, fused=True))
    weights = list(model.parameters())
    assert ecograph.optimize(model, example_inputs=images, recipe="auto") is model
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last) and not model[3].weight.is_contiguous()
    assert model._compiled_call_impl is not None
    assert type(model[3]) is not nn.Conv2d, "the balanced passes are there, too"
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    notes = "\n".join(ecograph.explain(model).notes)
    assert "channels_last + torch.compile" in notes
    assert "torch.set_num_threads(1)" in notes and "fused=True" in notes

    again = ecograph.optimize(model, example_inputs=images, recipe="auto")
    assert again is model and model._compiled_call_impl is not None, "twice is once"
    ecograph.restore(model)
    assert model[3].weight.is_contiguous() and model._compiled_call_impl is None
    assert type(model[3]) is nn.Conv2d


def test_a_copy_leaves_the_original(advised, images):
    model = advised(Setting(channels_last=True))
    made = ecograph.optimize(model, example_inputs=images, recipe="auto", copy=True)
    assert made is not model and not made[3].weight.is_contiguous() and model[3].weight.is_contiguous()


def test_measures_where_nobody_did(net, images, monkeypatch):
    monkeypatch.setattr("ecograph.advice.auto.SECONDS", 0.3)
    before = copy.deepcopy(net.state_dict())
    ecograph.optimize(net, example_inputs=images, recipe="auto")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert any("recipe auto" in note for note in ecograph.explain(net).notes)
    switches = find_switches(net, images)
    assert switches.setting.numerics == "exact"
    outputs = net(images)
    outputs.sum().backward()


def test_needs_inputs(net):
    with pytest.raises(ValueError, match="needs example_inputs"):
        ecograph.optimize(net, recipe="auto")


def test_has_no_graph_form(net, images):
    with pytest.raises(ValueError, match="lower='graph'"):
        ecograph.optimize(net, example_inputs=images, recipe="auto", lower="graph")


def test_named_passes_come_before_the_recipe(net, images):
    """As for every recipe; nothing is measured."""
    ecograph.optimize(net, example_inputs=images, recipe="auto", passes=[ecograph.passes.SparseBackward()])
    assert not any("auto" in note for note in ecograph.explain(net).notes)


def test_advise_is_the_function():
    assert callable(advise) and ecograph.advise is advise
