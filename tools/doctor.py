"""``ecograph doctor``: what this machine and this installation can do, and how to get what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ecograph.tools.console import print_json, stdout

if TYPE_CHECKING:
    from rich.table import Table

    from ecograph.tools.checkup import Check


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Print versions, devices and what is installed; for what is missing, how to get it."""
    from ecograph.tools.checkup import checks

    found = checks()
    if json:
        print_json({"checks": [vars(check) for check in found]})
    else:
        stdout().print(_table(found))


def _table(found: list[Check]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("", "what", "found", "how to get it"):
        table.add_column(column, overflow="fold")
    for check in found:
        mark = Text("ok", style="green") if check.ok else Text("missing", style="yellow")
        table.add_row(mark, check.name, Text(check.value), Text(check.fix))
    return table
