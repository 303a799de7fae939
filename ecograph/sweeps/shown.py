"""Showing a search while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

#: Told what is going on: a line for each thing that has ended, and what is being done now.
Say = Callable[[str], None]


@contextmanager
def shown(console: Console | None, *, elsewhere: bool = False) -> Iterator[Say]:
    """Gives a function that shows what has ended, a line each, and, on a terminal, what is being done now.

    Args:
        console: on which it is shown; None for none.
        elsewhere: whether to show what has ended where the console is no terminal, too.
    """
    if console is None or not (console.is_terminal or elsewhere):
        yield lambda text: None
        return

    def line(text: str) -> None:
        if text.startswith("trial "):
            console.print(text, markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield line
        return
    with console.status("") as status:
        yield lambda text: line(text) if text.startswith("trial ") else status.update(text)
