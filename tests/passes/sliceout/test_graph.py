"""``lower="graph"``: the rewritten graph trains as the model in place does, slice by slice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from slices import build, differing, slices, starts, step
from torch import Tensor, nn

import ecograph
from ecograph.capture.graph import BUFFER, PARAMETER
from ecograph.optimize import compile_graphs
from ecograph.passes import SliceOut, SparseBackward
from ecograph.record import records

each_model = pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "GPT", "routed", "inverted"])


def both_ways(name: str, others: Any = (), **options: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    """A model optimized in place, the graph of its twin, and an input."""
    (model, x), (other, _) = build(name, torch.float64), build(name, torch.float64)
    passes = [SliceOut(**{"min_width": 8, "when": "always", **options}), *others]
    ecograph.optimize(model, example_inputs=x, passes=passes)
    return model, ecograph.optimize(other, example_inputs=x, passes=passes, lower="graph"), x


def same(graph: dict[str, Tensor], model: dict[str, Tensor]) -> bool:
    assert graph.keys() == model.keys()
    return not differing(graph, {key: model[key] for key in graph})


@pytest.mark.parametrize("normalization", ["flow", "probability"])
@each_model
def test_it_trains_step_by_step_as_the_model_in_place(name: str, normalization: str) -> None:
    model, graph, x = both_ways(name, normalization=normalization, starts="any", align=1)
    assert len(slices(graph)) == len(slices(model)) > 0
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-4) for each in (model, graph)]
    seen = set()
    for _ in range(4):
        expected, found = step(model, x), step(graph, x)
        assert starts(graph) == starts(model)
        assert same(found, expected)
        seen.add(starts(model))
        for optimizer in optimizers:
            optimizer.step()
    assert len(seen) > 2 or name == "routed"


@pytest.mark.parametrize("schedule", ["alternate", "linear"])
def test_it_follows_the_schedule(schedule: str) -> None:
    model, graph, x = both_ways("GPT", schedule=schedule, others=[SparseBackward(0.5, when="always", min_channels=1)])
    schedulers = [ecograph.Scheduler(each, epochs=4, steps_per_epoch=1, warmup=1) for each in (model, graph)]
    rates = []
    for _ in range(4):
        assert same(step(graph, x), step(model, x))
        rates.append(records(graph)[0].rates[0].now)
        for scheduler in schedulers:
            scheduler.step()
    assert rates == ([0, 0, 0.5, 0] if schedule == "alternate" else [0, 0, 0.25, 0.5])


def test_steps_are_kept_to_the_slice() -> None:
    model, graph, x = both_ways("routed", update="slice")
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-2, weight_decay=0.1) for each in (model, graph)]
    for _ in range(4):
        assert same(step(graph, x), step(model, x))
        for optimizer in optimizers:
            optimizer.step()
    mine = dict(graph.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(mine[name], parameter)


def test_restored_it_is_the_model_it_was_made_from() -> None:
    model, x = build("GPT")
    plain, _ = build("GPT")
    passes = [SliceOut(0.5, min_width=8, when="always")]
    graph = ecograph.optimize(model, example_inputs=x, passes=passes, lower="graph")
    assert type(model) is type(plain)
    step(graph, x)
    assert graph.state_dict().keys() == model.state_dict().keys()
    assert ecograph.restore(graph) is model
    found, expected = step(model, x), step(plain, x)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("normalization", ["flow", "probability"])
@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "GPT", "routed", "inverted", "GPT-2"])
def test_the_printed_graph_computes_the_first_draw(name: str, normalization: str) -> None:
    """What ``inspect --graph`` shows is code that computes what the model computes in its first step."""
    (model, x), (other, _) = build(name, torch.float64), build(name, torch.float64)
    passes = [SliceOut(0.5, min_width=8, normalization=normalization, when="always")]
    captured, made, codes = compile_graphs(other, example_inputs=x, passes=passes)
    ecograph.optimize(model, example_inputs=x, passes=passes)
    for rate in records(model)[0].rates:
        rate.scheduled = True  # so that it stays at its first draw
    ((before, after),) = codes
    assert "narrow" in after
    assert "narrow" not in before
    expected = step(model, x)
    graph = captured.graphs[0]
    tensors = dict(other.named_parameters()) | dict(other.named_buffers())
    placeholders = [node for node in graph.module.graph.nodes if node.op == "placeholder"]
    names = [node.meta.get(PARAMETER) or node.meta.get(BUFFER) for node in placeholders]
    results = graph.module(*(tensors[each] if each else x for each in names))
    output = next(each for each in results if each.shape == expected["output"].shape)
    torch.testing.assert_close(output, expected["output"])
    for name, buffer in other.named_buffers():
        torch.testing.assert_close(buffer, expected[f"buffer {name}"], msg=name)
