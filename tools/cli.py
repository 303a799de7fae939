"""The entry point: one program, one file per command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ecograph.tools.console import stderr
from ecograph.tools.demo import demo
from ecograph.tools.doctor import doctor
from ecograph.tools.errors import UserError, one_line
from ecograph.tools.inspect import inspect
from ecograph.tools.loop import loop

app = typer.Typer(
    name="ecograph",
    help="A compiler for cheaper training of PyTorch models.",
    add_completion=False,
    pretty_exceptions_enable=False,  # a bug gets Python's own traceback
    rich_markup_mode="rich",
)
for command in (demo, inspect, loop, doctor):
    app.command()(command)

#: typer's exception for wrong usage. Its versions differ in where the class lives, not in what derives
#: from it.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


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
    try:
        code = app(args=arguments, prog_name="ecograph", standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that is gone can be told from a bug
    except UserError as error:
        return _fail(str(error))
    except _USAGE_ERROR as error:
        return _fail(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # `ecograph inspect ... | head`: whoever read has had enough
        _discard_stdout()
        return 0
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> str:
    """Returns typer's message, with the command whose --help would have told."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "ecograph"
    message = getattr(error, "format_message", lambda: str(error))()
    return f"{one_line(ValueError(message)).rstrip('.')} (see {command} --help)"


def _fail(message: str) -> int:
    stderr().print(f"[bold red]error:[/bold red] {_escape(message)}", soft_wrap=True)
    return 2


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _discard_stdout() -> None:
    """Keeps Python from failing once more when it flushes stdout at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
