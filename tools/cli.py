"""The entry point: one program, one file per command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ecograph.tools import data, running
from ecograph.tools.advise import advise
from ecograph.tools.calibrate import calibrate
from ecograph.tools.demo import demo
from ecograph.tools.doctor import doctor
from ecograph.tools.export import export
from ecograph.tools.inspect import inspect
from ecograph.tools.loop import loop
from ecograph.tools.pass_options import LoopCommand
from ecograph.tools.sweep import sweep
from ecograph.tools.train import train

app = typer.Typer(
    name="ecograph",
    help="A compiler for cheaper training of PyTorch models.",
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug gets Python's own traceback
    rich_markup_mode="rich",
)
app.command()(demo)
app.command()(inspect)
app.command()(advise)
app.command(epilog=data.epilog("[data] spec"))(train)
app.command()(sweep)
app.command(cls=LoopCommand)(loop)
app.command()(export)
app.command()(calibrate)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from ecograph import __version__

        print(f"ecograph {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and exits: 0 for success, 2 with one line on stderr for a mistake of the user's.

    Args:
        arguments: those of the command line, where not given.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    return running.run(app, arguments, "ecograph")
