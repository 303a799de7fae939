"""From a program's syntax tree to the text of a file."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence

from ecograph.loop.fragment import blocks, comment_text
from ecograph.loop.imports import Imports
from ecograph.loop.layout import lay_out
from ecograph.loop.tree import slot_name


def emit(docstring: str, imports: Imports, functions: Sequence[ast.stmt]) -> str:
    """Return the text of a file: docstring, imports, then the functions, two blank lines apart."""
    head = [lay_out("\n".join(group)) for group in imports.groups()]
    if docstring:
        head.insert(0, ast.unparse(ast.Module([ast.Expr(ast.Constant(docstring))], [])) + "\n")
    flat = _flatten(copy.deepcopy(list(functions)))
    bodies = [lay_out(ast.unparse(each)) for each in flat if comment_text(each) is None]
    return "\n\n".join(["\n".join(head), *bodies] if head else bodies)


def _flatten(body: list[ast.stmt]) -> list[ast.stmt]:
    """Take away the slots, but not what is in them, and tidy the blank lines."""
    return _tidy(_without_slots(body))


def _without_slots(body: list[ast.stmt]) -> list[ast.stmt]:
    flat: list[ast.stmt] = []
    for statement in body:
        if slot_name(statement) is not None:
            flat += [each for block in blocks(statement) for each in _without_slots(block)]
            continue
        for block in blocks(statement):
            block[:] = _flatten(block) or [ast.Pass()]
        _join_contexts(statement)
        flat.append(statement)
    return flat


def _join_contexts(statement: ast.stmt) -> None:
    """Make one `with a, b:` of a `with a:` that holds a `with b:` and nothing else."""
    if isinstance(statement, ast.With) and isinstance(inner := statement.body[0], ast.With) and not statement.body[1:]:
        statement.items += inner.items
        statement.body = inner.body


def _tidy(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drop blank lines at either end of a block, and all but one of several."""
    tidy: list[ast.stmt] = []
    for statement in body:
        if comment_text(statement) == "" and (not tidy or comment_text(tidy[-1]) == ""):
            continue
        tidy.append(statement)
    if tidy and comment_text(tidy[-1]) == "":
        tidy.pop()
    return tidy
