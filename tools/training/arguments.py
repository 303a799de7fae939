"""Options that are given to somebody else's class: which ones it has, and what it says about their values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ecograph.tools import own
from ecograph.tools.errors import UserError


def call_with(
    make: Callable[..., Any], *given: Any, options: Mapping[str, Any], says: str, ours: tuple[str, ...] = ()
) -> Any:
    """Calls ``make(*given, **options)``.

    Args:
        make: a class or function.
        given: its first arguments.
        options: what the user said of the others.
        says: what an error begins with, such as ``"optimizer 'sgd'"``.
        ours: options that the user cannot give.

    Raises:
        UserError: for an option that it does not have, with the nearest it has; one that is missing; or a value that it
            will not take.
    """
    known, needed = _options(make, len(given), ours)
    for name in options:
        if known is not None and name not in known:
            close = get_close_matches(name, known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(f"{says} has no option {name!r}{hint}; it has {', '.join(known) or 'none'}")
    if missing := [name for name in needed if name not in options]:
        raise UserError(f"{says} needs the option {missing[0]!r}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    try:
        return make(*given, **values)
    except Exception as error:  # for a value that it does not like, each has an error of its own
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise UserError(f"{says}{f' with {shown}' if shown else ''}: {own.where(error)}") from error


def _options(make: Callable[..., Any], given: int, ours: tuple[str, ...]) -> tuple[list[str] | None, list[str]]:
    """Returns the names of the options that a callable has, None where it takes any; and those it must have."""
    try:
        parameters = list(inspect.signature(make).parameters.values())[given:]
    except (ValueError, TypeError):  # written in C, without a signature
        return None, []
    named = [p for p in parameters if p.name not in ours and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return None if takes_any else [p.name for p in named], [p.name for p in named if p.default is p.empty]
