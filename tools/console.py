"""Where output goes: tables and JSON to stdout, everything about the run itself to stderr.

Of several processes that train together, only the first one says anything.
"""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from ecograph.tools.ranks import is_main

#: Columns where the output is not a terminal and COLUMNS is not set: enough for the widest table.
PIPE_WIDTH = 120


def stdout() -> Console:
    """Returns the console for results."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console(highlight=False, quiet=not is_main())
    return Console(highlight=False, width=PIPE_WIDTH, quiet=not is_main())


def stderr() -> Console:
    """Returns the console for progress, notes and errors."""
    return Console(stderr=True, highlight=False, quiet=not is_main())


def note(text: str) -> None:
    """Says something beside the result, in one line on stderr."""
    stderr().print(f"note: {text}", style="yellow", markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Prints ``data`` as JSON to stdout. NaN is not JSON, and raises."""
    print_text(json.dumps(data, indent=2, allow_nan=False) + "\n")


def finite(data: Any) -> Any:
    """Returns JSON types with None in place of the numbers that JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def print_text(text: str) -> None:
    """Prints a text to stdout as it is, without breaking its lines."""
    if is_main():
        print(text, end="")


def print_python(source: str) -> None:
    """Prints Python to stdout, coloured on a terminal."""
    console = stdout()
    if not console.is_terminal:
        print_text(source)
        return
    from rich.syntax import Syntax

    console.print(Syntax(source.rstrip("\n"), "python", theme="ansi_dark", background_color="default"))


@contextmanager
def no_effect_noted() -> Iterator[None]:
    """Turns the warning that nothing was rewritten into a note; other warnings pass as they are."""
    from ecograph import NoEffectWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NoEffectWarning)
        yield
    told = set()
    for warning in caught:
        text = str(warning.message)
        if not issubclass(warning.category, NoEffectWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        elif text not in told:
            told.add(text)
            note(text)
