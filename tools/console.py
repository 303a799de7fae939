"""Where output goes: tables and JSON to stdout, everything about the run itself to stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from rich.console import Console

#: Columns where the output is not a terminal and COLUMNS is not set: enough for the widest table.
PIPE_WIDTH = 120


def stdout() -> Console:
    """Returns the console for results."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console(highlight=False)
    return Console(highlight=False, width=PIPE_WIDTH)


def stderr() -> Console:
    """Returns the console for progress, notes and errors."""
    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Says something beside the result, in one line on stderr."""
    stderr().print(f"note: {text}", style="yellow", markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Prints ``data`` as JSON to stdout. NaN is not JSON, and raises."""
    print(json.dumps(data, indent=2, allow_nan=False))
