from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from inspected import EVIL, many_nodes

from ecograph.tools.report.page import SCRIPTS, data, embedded, page
from ecograph.tools.report.tree import grow

FOLDER = Path(__file__).resolve().parents[3] / "tools" / "report"


def test_nothing_in_the_data_ends_its_element() -> None:
    evil = {EVIL: ["<!--", "</script>", "&lt;", "\u2028"]}
    text = embedded(evil)
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == evil


def test_what_is_written_into_the_page_is_escaped() -> None:
    inspected = many_nodes(1)
    inspected = replace(inspected, spec=f"a.py:{EVIL}", report=replace(inspected.report, model=f"</title>{EVIL}"))
    text = page(inspected, EVIL)
    assert text.count("<script") == 2 and text.count("</title>") == 1
    assert EVIL not in text and "&lt;script&gt;alert(1)" in text


def test_the_page_is_one_file_that_asks_for_nothing() -> None:
    text = page(many_nodes(1))
    assert "default-src 'none'" in text
    for pattern in (r"<link(?![^>]*data:)", r"\bsrc=", r"@import", r"url\(", r"\bfetch\(", r"innerHTML"):
        assert not re.search(pattern, text), pattern
    assert {path.name for path in FOLDER.glob("*.js")} == set(SCRIPTS)
    assert not any("</" in (FOLDER / name).read_text() for name in SCRIPTS)


def test_costs_and_decisions_are_at_their_layers() -> None:
    found = data(many_nodes(2))
    items = found["items"]
    (down,) = (item for item in items if item.get("path") == "blocks.1.down" and item["kind"] == "layer")
    assert (down["before"]["forward"][0], down["after"]["forward"][0]) == (4e-3, 2e-3)
    assert down["products"][0]["passes"] == ["sparse_backward"]
    nodes = [item for item in items if item["kind"] == "node" and items[item["parent"]] is down]
    assert [(node["type"], node.get("removed"), node.get("added")) for node in nodes] == [
        ("linear", "sparse_backward", None),
        ("sparse_linear", None, "sparse_backward"),
    ]
    assert {node["source"] for node in nodes} == {"net.py:10"}
    assert found["schedule"][0]["values"][:3] == [0.0, 0.8, 0.0]
    assert all(figure["source"] for figure in found["device"]["figures"])


def test_the_flow_of_data() -> None:
    tree = grow(many_nodes(2))
    paths = [item.path for item in tree.items]
    edges = [(paths[source], paths[target]) for source, target in tree.edges]
    assert ("blocks.0.down", "blocks.1.norm") in edges and len(edges) == 7
    assert [paths[number] for number in tree.inputs] == ["blocks.0.norm"]
    assert [paths[number] for number in tree.outputs] == ["blocks.1.down"]
    assert all(item.parent < item.number for item in tree.items)


def test_without_an_estimate() -> None:
    found = data(replace(many_nodes(1), estimate=None))
    assert "device" not in found and found["items"]
    page(replace(many_nodes(1), estimate=None))
