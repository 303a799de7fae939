"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timing import machine


def parser(doc: str, *, only: Sequence[str], rounds: int) -> ArgumentParser:
    """Returns a parser with the options that every timing has.

    Args:
        doc: the script's docstring; its first line is the description.
        only: what ``--only`` chooses from.
        rounds: counted rounds, if ``--rounds`` is not given.
    """
    made = ArgumentParser(description=doc.split("\n")[0])
    made.add_argument("--only", nargs="*", default=None, choices=only, metavar="NAME", help=f"of: {' '.join(only)}")
    made.add_argument("--rounds", type=int, default=rounds, help="counted rounds")
    made.add_argument("--json", type=Path, default=None, help="write all figures to this file")
    return made


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Writes the figures with the machine they were measured on; does nothing without a path."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
