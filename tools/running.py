"""Running a program of ours: exit codes, one line for a user's mistake, a traceback for a bug."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from ecograph.tools.console import stderr
from ecograph.tools.errors import UserError, one_line
from ecograph.tools.ranks import is_main, rank

#: typer's exception for wrong usage. Its versions differ in where the class lives, not in what derives
#: from it.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def run(app: typer.Typer, arguments: Sequence[str] | None, name: str) -> int:
    """Runs a program and returns its exit code: 0, 2 with one line on stderr for a user's mistake, 130 after Ctrl-C.

    Args:
        app: the program.
        arguments: those of the command line, where not given.
        name: of the program, for its help.
    """
    try:
        code = app(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that is gone can be told from a bug
    except UserError as error:
        return _fail(str(error))
    except _USAGE_ERROR as error:
        return _fail(_usage(error, name))
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # `ecograph inspect ... | head`: whoever read has had enough
        _discard_stdout()
        return 0
    return code if isinstance(code, int) else 0


def _usage(error: Exception, name: str) -> str:
    """Returns typer's message, with the command whose --help would have told."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else name
    message = getattr(error, "format_message", lambda: str(error))()
    return f"{one_line(ValueError(message)).rstrip('.')} (see {command} --help)"


def _fail(message: str) -> int:
    from rich.markup import escape

    if is_main():
        stderr().print(f"[bold red]error:[/bold red] {escape(message)}", soft_wrap=True)
    else:  # what only this process has found must not be kept quiet
        print(f"error: process {rank()}: {message}", file=sys.stderr)
    return 2


def _discard_stdout() -> None:
    """Keeps Python from failing once more when it flushes stdout at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
