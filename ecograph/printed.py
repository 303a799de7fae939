"""What shows as tables: with rich in colours, by ``print`` and in a notebook as plain text."""

from __future__ import annotations

from io import StringIO


class Printed:
    """What has a ``__rich_console__``, and is shown by it wherever it is printed."""

    def __str__(self) -> str:
        """Returns the tables as text, as wide as the terminal, and 100 columns at least."""
        from shutil import get_terminal_size

        from rich.console import Console

        text = StringIO()
        Console(file=text, width=max(get_terminal_size((120, 24)).columns, 100)).print(self)
        return text.getvalue().rstrip("\n")

    __repr__ = __str__
