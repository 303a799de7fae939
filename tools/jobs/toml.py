"""TOML in and out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecograph.tools.errors import UserError, one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Table = dict[str, Any]


def read(path: Path) -> Table:
    """Returns what a file says.

    Raises:
        UserError: where it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; ecograph train --example prints one to start from") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UserError(f"{path} is not TOML: {one_line(error)}") from error


def value(text: str) -> Any:
    """Returns the value that ``text`` is in TOML; the text itself where it is none, so that words need no quotes."""
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return found["value"] if len(found) == 1 else text


def dump(table: Mapping[str, Any]) -> str:
    """Returns a table of plain values, and tables of such, as TOML."""
    return "\n".join(_lines(table, ())).strip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{key} = {_plain(each)}" for key, each in table.items() if not isinstance(each, Mapping)]
    inner = {key: each for key, each in table.items() if isinstance(each, Mapping)}
    if path and (lines or not inner):
        lines = ["", f"[{'.'.join(path)}]", *lines]
    for key, each in inner.items():
        lines += _lines(each, (*path, key))
    return lines


def _plain(each: Any) -> str:
    """Returns a value as TOML, which writes numbers, strings and lists as JSON does."""
    if isinstance(each, float) and each != each or each in (float("inf"), float("-inf")):
        return str(float(each))
    return json.dumps(each, ensure_ascii=False)
