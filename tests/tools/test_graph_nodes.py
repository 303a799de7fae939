from __future__ import annotations

import torch
from torch import Tensor, nn

import ecograph
from ecograph.capture import capture
from ecograph.optimize import compile_graphs
from ecograph.tools.graph_nodes import describe, source_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        y += 1
        return self.last(nn.functional.max_pool2d(y, 2))  # type: ignore[no-any-return]


def test_nodes_of_a_graph() -> None:
    (graph,) = capture(Net(), torch.zeros(4, 3, 8, 8)).graphs
    nodes = describe(graph)
    assert [node.operation for node in nodes] == [
        "input",
        "conv2d",
        "relu",
        "iadd",
        "max_pool2d",
        "conv2d",
        "output",
    ]
    conv = nodes[1]
    assert (conv.layer, conv.shape, conv.inputs) == ("first", (4, 64, 8, 8), (nodes[0].name,))
    line = Net.forward.__code__.co_firstlineno
    assert conv.source.rpartition("/")[2] == f"test_graph_nodes.py:{line + 1}", "the model's line, not torch.nn's"
    assert nodes[4].source.endswith(f":{line + 3}")


def test_nodes_that_a_pass_put_in_are_at_their_layer() -> None:
    passes = [ecograph.passes.SliceOut(when="always")]
    captured, _, _ = compile_graphs(Net(), example_inputs=torch.zeros(4, 3, 8, 8), passes=passes)
    narrow = [node for node in describe(captured.graphs[0]) if node.operation == "narrow"]
    assert narrow and {node.layer for node in narrow} <= {"first", "last"}


def test_without_example_inputs_shapes_are_unknown() -> None:
    (graph,) = capture(Net(), None).graphs
    nodes = describe(graph)
    assert {node.shape for node in nodes} == {None}
    assert [node.layer for node in nodes if node.operation == "conv2d"] == ["first", "last"]


def test_paths_tell_no_more_than_they_must() -> None:
    trace = (
        '  File "/home/someone/venv/lib/python3.11/site-packages/timm/models/vit.py", line 12, in forward\n    x = y\n'
    )
    assert source_of(trace) == "timm/models/vit.py:12"
    assert source_of('  File "/home/someone/work/net.py", line 3, in forward\n    x = y\n') == "work/net.py:3"
    own = f'  File "{torch.__file__}", line 1, in f\n'
    assert source_of(trace + own) == "timm/models/vit.py:12"
    assert source_of(own) == source_of("") == ""
