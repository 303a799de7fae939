"""What ``ecograph inspect`` prints: tables, or one of JSON, DOT and Mermaid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ecograph.tools.console import print_json, print_text, stdout
from ecograph.tools.errors import UserError

if TYPE_CHECKING:
    from ecograph.tools.inspected import Inspected


@dataclass(frozen=True)
class Shown:
    """What was asked for.

    Attributes:
        graph: the code of the graphs before and after each pass.
        diff: the nodes that passes changed.
        cost: the estimate.
        dot: the layers as DOT, in place of the tables.
        mermaid: as Mermaid.
        json: everything as JSON.

    Raises:
        UserError: for two that would have to share stdout.
    """

    graph: bool = False
    diff: bool = False
    cost: bool = False
    dot: bool = False
    mermaid: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        alone = [f"--{name}" for name in ("dot", "mermaid", "json") if getattr(self, name)]
        if len(alone) > 1:
            raise UserError(f"{alone[0]} and {alone[1]} are both given: leave one out")
        if alone and alone != ["--json"]:
            tables = [f"--{name}" for name in ("graph", "diff", "cost") if getattr(self, name)]
            if tables[:1] and tables != ["--cost"]:
                raise UserError(f"{alone[0]} prints nothing else: leave {tables[0]} out")

    @property
    def graphs(self) -> bool:
        """Whether it needs the captured graphs."""
        return self.graph or self.diff or self.dot or self.mermaid

    def show(self, inspected: Inspected) -> None:
        """Prints it."""
        if self.json:
            print_json(inspected.to_dict(graph=self.graph, diff=self.diff, cost=self.cost))
        elif self.dot or self.mermaid:
            from ecograph.tools.report import drawings
            from ecograph.tools.report.tree import grow

            print_text((drawings.dot if self.dot else drawings.mermaid)(grow(inspected)))
        else:
            self._tables(inspected)

    def _tables(self, inspected: Inspected) -> None:
        from ecograph.tools import graph_diff, node_diff

        console = stdout()
        console.print(inspected.report)
        console.print(inspected.about(), style="dim", markup=False)
        if self.cost:
            console.print(inspected.estimate)
        parts = [*(graph_diff.render(inspected.graphs, colour=console.is_terminal) if self.graph else ())]
        parts += node_diff.render(inspected.graphs) if self.diff else ()
        for part in parts:
            console.print(part, soft_wrap=not console.is_terminal)


def check_file(path: Path) -> None:
    """Checks before the work begins that a page can be written.

    Raises:
        UserError: for a folder that there is not.
    """
    if path.is_dir():
        raise UserError(f"--html {path}: is a folder: give a file, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UserError(f"--html {path}: there is no folder {path.parent}: make it, or give another")
