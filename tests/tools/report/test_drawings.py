from __future__ import annotations

from dataclasses import replace

import pytest
from inspected import EVIL, many_nodes

from ecograph.cost.flops import Flops
from ecograph.tools.report.drawings import dot, mermaid
from ecograph.tools.report.tree import Tree, grow


@pytest.fixture
def tree() -> Tree:
    inspected = many_nodes(2)
    layers = [
        replace(layer, after=Flops(10**6, 10**5, 10**5)) if layer.passes else layer for layer in inspected.report.layers
    ]
    return grow(replace(inspected, report=replace(inspected.report, layers=layers, model='a "quoted\\" name')))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot")  # pydot 4 uses old names of pyparsing's
def test_dot_is_dot(tree: Tree) -> None:
    pydot = pytest.importorskip("pydot", reason="pydot reads DOT for this test: pip install pydot")
    (graph,) = pydot.graph_from_dot_data(dot(tree))
    assert [each.get_label() for each in graph.get_subgraphs()] == ['"blocks"']
    blocks = graph.get_subgraphs()[0].get_subgraphs()
    assert [each.get_label() for each in blocks] == ['"0"', '"1"']
    nodes = {node.get_label(): node for node in blocks[0].get_nodes()}
    down = next(node for label, node in nodes.items() if label.startswith('"down'))
    assert down.get_label() == '"down\\nLinear\\n3 M FLOPs, -60%"'
    assert any(EVIL in label for label in nodes)
    assert down.get_fillcolor() != nodes['"norm\\nLayerNorm"'].get_fillcolor()
    edges = {(edge.get_source(), edge.get_destination()) for edge in graph.get_edges()}
    assert len(edges) == 7 + 2 and ("inputs", next(iter(nodes.values())).get_name()) in edges


def test_mermaid(tree: Tree) -> None:
    lines = [line.strip() for line in mermaid(tree).splitlines()]
    assert lines[0] == "flowchart TD"
    assert sum(line.startswith("subgraph") for line in lines) == lines.count("end") == 3
    assert sum(" --> " in line for line in lines) == 7 + 2
    text = "\n".join(lines)
    assert EVIL not in text and "#60;script#62;alert#40;1#41;" in text
    assert '"down<br>Linear<br>3 M FLOPs, -60%"' in text
