"""Finding passes: ours and other people's, by the entry-point group ``ecograph.passes``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Any

GROUP = "ecograph.passes"


@cache
def _entries() -> dict[str, Any]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def names() -> list[str]:
    """Returns the names of the installed passes."""
    return sorted(_entries())


def find(name: str) -> Any:
    """Returns the class of the pass called ``name``.

    Raises:
        ValueError: where no installed pass has this name.
    """
    entry = _entries().get(name)
    if entry is None:
        raise ValueError(f"no pass is called {name!r}; installed are {names()}")
    return entry.load()


def from_dict(data: dict[str, Any]) -> Any:
    """Returns a pass from its JSON form ``{"name": ..., **options}``."""
    options = dict(data)
    return find(options.pop("name")).from_dict(options)
