"""Which nodes of a graph each pass took out and put in: one list, with the pass's name at every node that changed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from rich.text import Text

from ecograph.tools.graph_diff import GraphStages, title

#: Unchanged nodes that are shown around a change.
CONTEXT = 2

# An operation in place is written ``a += b;  c = a``: the node is c.
_NODE = re.compile(r"^    (?:\w+ \S+= .*;  )?(\w+) = ")


@dataclass
class Line:
    """A line of a graph's code: a node, or what the code begins and ends with.

    Attributes:
        code: the line.
        node: the name of its node, or "".
        added_by: the pass that put it in, or "".
        removed_by: the pass that took it out, or "".
    """

    code: str
    node: str
    added_by: str = ""
    removed_by: str = ""

    @property
    def mark(self) -> str:
        """``"+"``, ``"-"``, ``"±"`` for what one pass put in and another took out, or ``" "``."""
        if self.added_by and self.removed_by:
            return "±"
        return "+" if self.added_by else "-" if self.removed_by else " "

    @property
    def passes(self) -> str:
        """The passes that changed it, in words."""
        if self.added_by and self.removed_by:
            return f"{self.added_by}, then {self.removed_by}"
        return self.added_by or self.removed_by


def lines(graph: GraphStages) -> list[Line]:
    """Returns all lines that a graph had at any time, in order."""
    merged = [_line(text) for text in graph.before.splitlines()]
    for name, code in graph.after:
        merged = _merged(merged, code.splitlines(), name)
    return merged


def _merged(merged: Sequence[Line], now: Sequence[str], name: str) -> list[Line]:
    """Returns the lines with what a pass changed marked."""
    there = [line for line in merged if not line.removed_by]
    fate: dict[int, list[Line]] = {}  # place among `there` -> what was put in before it
    matcher = SequenceMatcher(None, [line.code for line in there], list(now), autojunk=False)
    for kind, begin, end, first, last in matcher.get_opcodes():
        if kind == "equal":
            continue
        for line in there[begin:end]:
            line.removed_by = name
        fate[end] = [_line(text, name) for text in now[first:last]]
    result: list[Line] = []
    place = 0
    live = {id(line) for line in there}
    for line in merged:
        if id(line) in live:
            result += fate.get(place, [])
            place += 1
        result.append(line)
    return result + fate.get(place, [])


def _line(text: str, added_by: str = "") -> Line:
    found = _NODE.match(text)
    return Line(text, found[1] if found else "", added_by)


def to_dict(graph: GraphStages) -> dict[str, Any]:
    """Returns the nodes of a graph and what changed them, as JSON types."""
    found = []
    for line in lines(graph):
        if not line.node:
            continue
        facts = graph.nodes.get(line.node)
        found.append(
            {
                "node": line.node,
                "layer": facts.layer if facts else None,
                "code": line.code.strip(),
                "added_by": line.added_by or None,
                "removed_by": line.removed_by or None,
            }
        )
    return {"path": graph.path, "method": graph.method, "nodes": found}


def render(graphs: Sequence[GraphStages]) -> Iterator[Text]:
    """Yields for every graph the nodes that passes changed, with a few of their neighbours."""
    for number, graph in enumerate(graphs, 1):
        yield title(graph, number, len(graphs))
        found = lines(graph)
        changed = [place for place, line in enumerate(found) if line.mark != " "]
        if not changed:
            yield Text(f"{len(found)} lines, not changed by any pass", style="dim")
            continue
        near = {place + offset for place in changed for offset in range(-CONTEXT, CONTEXT + 1)}
        yield from _shown(graph, found, near)
        yield Text("- taken out, + put in, by the pass named behind #; --graph prints all of the code", style="dim")


def _shown(graph: GraphStages, found: Sequence[Line], near: set[int]) -> Iterator[Text]:
    skipped, layer = 0, None
    for place, line in enumerate(found):
        if place not in near:
            skipped += 1
            continue
        if skipped:
            yield Text(f"  ... {skipped} unchanged", style="dim")
            skipped = 0
        facts = graph.nodes.get(line.node)
        if facts is not None and facts.layer != layer:
            layer = facts.layer
            yield Text(f"  # {layer or 'the model itself'}", style="bold")
        yield _shown_line(line)
    if skipped:
        yield Text(f"  ... {skipped} unchanged", style="dim")


_STYLES = {" ": "", "+": "green", "-": "red", "±": "yellow"}


def _shown_line(line: Line) -> Text:
    text = Text(f"{line.mark} {line.code.strip()}", style=_STYLES[line.mark])
    if line.passes:
        text.append(f"  # {line.passes}", style="bold cyan")
    return text
