"""What a value depends on: through writes in place, views and nested graphs."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.utils.checkpoint import checkpoint

from ecograph.analysis.flow import flow, mutated
from ecograph.capture import capture
from ecograph.capture.graph import Graph


def reaches_output(graph: Graph) -> set[str]:
    """Returns the names of the nodes on which the output of a graph depends."""
    steps = list(flow(graph))
    wanted = {node for inner, node, _ in steps if node.op == "output" and inner is graph}
    for _, node, depends in reversed(steps):
        if node in wanted:
            wanted.update(depends)
    return {str(getattr(node.target, "__name__", node.target)) for node in wanted}


def in_slice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    out[:, 1:] = y.exp()[:, 1:]
    return out


def in_view(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    out.view(-1)[2:].add_(y.exp().view(-1)[2:])
    return out


def in_base(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    view = out.t()
    out.copy_(y.exp())
    return view


def augmented(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = x.clone()
    out[0] += y.exp()[0]
    return out


def with_out(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    torch.add(x, y.exp(), out=out)
    return out * 1


def twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    out[0] = y.exp()[0]
    out[1] = x[1]
    return out


def checkpointed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return checkpoint(lambda a: a.exp() + x, y, use_reentrant=False)


@pytest.mark.parametrize("with_inputs", [True, False], ids=["storages", "names of views"])
@pytest.mark.parametrize("body", [in_slice, in_view, in_base, augmented, with_out, twice, checkpointed])
def test_writes_are_followed(body: object, with_inputs: bool) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return body(x, y)  # type: ignore[operator, no-any-return]

    inputs = (torch.randn(3, 3), torch.randn(3, 3)) if with_inputs else None
    captured = capture(Model(), inputs)
    if not captured.graphs:
        assert body in (in_slice, augmented, twice, checkpointed), "fx cannot trace an assignment to an item"
        return
    assert "exp" in reaches_output(captured.graphs[0])


def test_what_is_written_elsewhere_does_not_count() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            other = torch.zeros_like(x)
            other[0] = y.exp()[0]
            return x.sin()

    reached = reaches_output(capture(Model(), (torch.randn(3, 3), torch.randn(3, 3))).graphs[0])
    assert "sin" in reached
    assert "exp" not in reached


def test_reads_before_a_write_do_not_depend_on_it() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out = x.clone()
            before = out * 2
            out.copy_(y.exp())
            return before

    reached = reaches_output(capture(Model(), (torch.randn(3, 3), torch.randn(3, 3))).graphs[0])
    assert "exp" not in reached


def test_every_node_comes_once_after_what_it_depends_on() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, x, use_reentrant=False).relu()

    (graph,) = capture(Model(), torch.randn(2, 4)).graphs
    seen: set[fx.Node] = set()
    for _, node, depends in flow(graph):
        assert node not in seen
        assert seen.issuperset(depends)
        seen.add(node)
    assert seen.issuperset(graph.nodes)
    assert seen.issuperset(n for calls in graph.nested.values() for nested in calls for n in nested.graph.nodes)


def test_which_calls_write() -> None:
    def body(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a = x.add(y)
        a.mul_(2)
        b = torch.relu_(a)
        return torch.mul(b, y, out=a)

    nodes = {node.name: node for node in fx.symbolic_trace(body).graph.nodes}
    written = {name: str(target) for name, node in nodes.items() if (target := mutated(node)) is not None}
    assert written == {"mul_": "add", "relu_": "add", "mul": "add"}
