"""What a pass changed in a graph, for reading: fx code without its noise, as a diff."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.syntax import Syntax
from rich.text import Text

if TYPE_CHECKING:
    from ecograph.tools.graph_nodes import NodeFacts


@dataclass(frozen=True)
class GraphStages:
    """A captured graph, and what each pass made of it.

    Attributes:
        path: where in the model it starts; "" is the whole model.
        method: how it was captured.
        before: its code.
        after: for each pass, its name and the code it left.
        nodes: name -> what is known about a node, for the nodes of all stages.
    """

    path: str
    method: str
    before: str
    after: list[tuple[str, str]]
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return {
            "path": self.path,
            "method": self.method,
            "before": self.before,
            "after": [{"pass": name, "code": code} for name, code in self.after],
        }


def readable(code: str) -> str:
    """Returns fx code without what only the interpreter needs.

    Gone are the ``a = b = None`` that free memory, the types of fake tensors, and the second names that
    Dynamo gives its inputs; parameters have shorter names.
    """
    code = re.sub(r";  (\w+ = )+None", "", code)
    code = code.replace(" : torch._subclasses.fake_tensor.FakeTensor", "")
    code = re.sub(r"\bL_(\w+)", r"l_\1", code)
    code = re.sub(r"^    (\w+) = \1\n", "", code, flags=re.MULTILINE)
    code = re.sub(r"\bl_model_(\w*?(?:parameters|buffers)_\w+)", _short_name, code)
    code = re.sub(r"^def forward\(.*\)(?= ->|:)", _one_per_line, code, flags=re.MULTILINE)
    return "\n".join(line.rstrip() for line in code.strip().splitlines()) + "\n"


def _short_name(match: re.Match[str]) -> str:
    """Returns ``layer1_0_conv1_weight`` for ``modules_layer1_modules_0_modules_conv1_parameters_weight_``."""
    name = re.sub(r"(^|_)(?:modules|parameters|buffers)_", r"\1", match[1]).strip("_")
    return f"_{name}" if name[0].isdigit() else name


def _one_per_line(match: re.Match[str]) -> str:
    """Returns a signature with a line for each parameter, where it is long."""
    signature = match[0]
    if len(signature) <= 100:
        return signature
    inside = signature.removeprefix("def forward(").removesuffix(")")
    return "def forward(\n" + "".join(f"    {each},\n" for each in inside.split(", ")) + ")"


def diff(before: str, after: str) -> str:
    """Returns all of the code, with what was taken out and put in marked; ``""`` where nothing changed."""
    old, new = before.splitlines(), after.splitlines()
    lines = difflib.unified_diff(old, new, lineterm="", n=max(len(old), len(new)))
    return "\n".join(list(lines)[3:])  # after the names of the files and the line numbers


def render(graphs: list[GraphStages], *, colour: bool) -> Iterator[Syntax | Text]:
    """Yields every graph: its code, and a diff for each pass that changed it.

    Args:
        graphs: in order.
        colour: highlight for a terminal; plain text otherwise, whose lines are never broken.
    """
    for number, graph in enumerate(graphs, 1):
        yield title(graph, number, len(graphs))
        current, shown = graph.before, False
        for name, code in graph.after:
            if changes := diff(current, code):
                yield Text(f"{name}: - before, + after", style="bold")
                yield _code(changes, "diff", colour=colour)
                shown = True
            current = code
        if not shown:
            yield Text("not changed by any pass", style="bold")
            yield _code(graph.before, "python", colour=colour)


def title(graph: GraphStages, number: int, count: int) -> Text:
    """Returns the line above what is said of a graph."""
    place = f" of {graph.path}" if graph.path else ""
    return Text(f"\ngraph {number} of {count}{place}, captured with {graph.method}", style="bold")


def _code(text: str, language: str, *, colour: bool) -> Syntax | Text:
    if colour:
        return Syntax(text.rstrip("\n"), language, theme="ansi_dark", background_color="default", word_wrap=True)
    return Text(text.rstrip("\n"), no_wrap=True, overflow="ignore")
