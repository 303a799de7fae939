from __future__ import annotations

from rich.text import Text

from ecograph.tools.graph_diff import GraphStages
from ecograph.tools.graph_nodes import NodeFacts
from ecograph.tools.node_diff import lines, render, to_dict

HEAD = "def forward(self, x):\n"
BEFORE = HEAD + "".join(f"    n{i} = f(n{i - 1})\n" for i in range(1, 12)) + "    return (n11,)\n"
FIRST = BEFORE.replace("n4 = f(", "n4 = sparse(")
SECOND = FIRST.replace("n4 = sparse(n3)", "w = narrow(n3)\n    n4 = sparse(w)").replace("n9 = f(", "n9 = g(")


def stages() -> GraphStages:
    nodes = {f"n{i}": NodeFacts(f"n{i}", "f", f"layer{i // 6}") for i in range(12)}
    return GraphStages("", "dynamo", BEFORE, [("first", FIRST), ("second", SECOND)], nodes)


def test_each_change_has_its_pass() -> None:
    changed = [(line.mark, line.code.strip(), line.passes) for line in lines(stages()) if line.mark != " "]
    assert changed == [
        ("-", "n4 = f(n3)", "first"),
        ("±", "n4 = sparse(n3)", "first, then second"),
        ("+", "w = narrow(n3)", "second"),
        ("+", "n4 = sparse(w)", "second"),
        ("-", "n9 = f(n8)", "second"),
        ("+", "n9 = g(n8)", "second"),
    ]


def test_what_is_left_is_the_last_stage() -> None:
    found = lines(stages())
    assert [line.code for line in found if not line.added_by] == BEFORE.splitlines()
    assert [line.code for line in found if not line.removed_by] == SECOND.splitlines()


def test_an_operation_in_place_is_a_node() -> None:
    graph = GraphStages("", "dynamo", HEAD + "    a += b;  c = a\n", [])
    assert [line.node for line in lines(graph)] == ["", "c"]


def test_as_text() -> None:
    text = "\n".join(part.plain for part in render([stages()]) if isinstance(part, Text))
    assert "+ n4 = sparse(w)  # second" in text and "- n4 = f(n3)  # first" in text
    assert "# layer0" in text and "unchanged" in text and "n1 = " not in text
    unchanged = GraphStages("", "dynamo", BEFORE, [("first", BEFORE)])
    assert "not changed by any pass" in "\n".join(part.plain for part in render([unchanged]))


def test_as_json() -> None:
    nodes = to_dict(stages())["nodes"]
    assert nodes[3] == {
        "node": "n4",
        "layer": "layer0",
        "code": "n4 = f(n3)",
        "added_by": None,
        "removed_by": "first",
    }
    assert nodes[4]["added_by"] == "first" and nodes[4]["removed_by"] == "second"
