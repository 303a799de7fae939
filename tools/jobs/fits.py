"""Whether a value of a TOML file is what an annotation asks for."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    Path: "text in quotes",
}


def fits(value: Any, hint: Any) -> bool:
    """Returns whether ``value`` is of the type that ``hint`` stands for, as far as TOML can write it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if hint is type(None):
        return value is None
    if origin in (Sequence, list, tuple):
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str)
    return hint in (bool, int) and type(value) is hint


def may_be_none(hint: Any) -> bool:
    """Returns whether an annotation allows None."""
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def in_words(hint: Any) -> str:
    """Returns what an annotation asks for, for people."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = dict.fromkeys(in_words(each) for each in arguments if each is not type(None))
        return " or ".join([*(part for part in parts if part), *(["false"] if type(None) in arguments else [])])
    if origin is Literal:
        return " or ".join(f'"{each}"' if isinstance(each, str) else str(each) for each in arguments)
    if origin in (Sequence, list, tuple):
        return f"a list of {in_words(arguments[0]).removeprefix('a ')}"
    return _WORDS.get(hint, "")
