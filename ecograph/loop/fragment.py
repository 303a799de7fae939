"""Python text to syntax tree, with its comments and blank lines kept.

A pass writes the statements it wants as ordinary Python text. `ast` forgets comments, so they are read with
`tokenize` and woven into the tree as statements of their own: an expression statement whose name is the
comment. `ast.unparse` writes a name as it stands, at the right indentation, so the comment comes out as it
went in. A blank line is the empty comment.
"""

from __future__ import annotations

import ast
import io
import textwrap
import tokenize
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass


def parse(text: str) -> list[ast.stmt]:
    """Return the statements of `text`; each comment stands above the statement it belongs to.

    A comment at the end of a line moves above that line's statement. A comment before `else` or `except`
    moves below it.

    Raises:
        SyntaxError: if `text` is not Python.
    """
    text = textwrap.dedent(text).strip("\n") + "\n"
    body = ast.parse(text).body
    notes = deque(_notes(text))
    woven = _weave(body, notes)
    return woven + [comment(note.text) for note in notes]


def comment(text: str) -> ast.stmt:
    """Return the statement that is written as `text`: a comment with its `#`, or "" for a blank line."""
    return ast.Expr(value=ast.Name(id=text, ctx=ast.Load()))


def comment_text(statement: ast.stmt) -> str | None:
    """Return the text of a comment or blank line, or None for a statement that does something."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Name):
        name = statement.value.id
        return name if name == "" or name.startswith("#") else None
    return None


def blocks(statement: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements inside a compound statement, in the order of the text."""
    for field in ("body", "handlers", "cases", "orelse", "finalbody"):
        inner = getattr(statement, field, None)
        if not isinstance(inner, list) or not inner:
            continue
        if field in ("handlers", "cases"):
            for part in inner:
                yield part.body
        else:
            yield inner


@dataclass(frozen=True)
class _Note:
    """A comment or a blank line. An attached one shares its line, or its brackets, with code."""

    line: int
    text: str
    attached: bool


def _notes(text: str) -> Iterator[_Note]:
    lines = text.splitlines()
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        row, column = token.start
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        elif token.type == tokenize.COMMENT:
            shares_line = lines[row - 1][:column].strip() != ""
            yield _Note(row, token.string, attached=shares_line or depth > 0)
        elif token.type == tokenize.NL and depth == 0 and lines[row - 1].strip() == "":
            yield _Note(row, "", attached=False)


def _weave(body: list[ast.stmt], notes: deque[_Note]) -> list[ast.stmt]:
    woven: list[ast.stmt] = []
    for statement in body:
        inner = list(blocks(statement))
        first = _first_line(statement)
        header_end = max(first, _first_line(inner[0][0]) - 1) if inner else statement.end_lineno or first
        while notes and (notes[0].line < first or (notes[0].attached and notes[0].line <= header_end)):
            woven.append(comment(notes.popleft().text))
        woven.append(statement)
        for block in inner:
            block[:] = _weave(block, notes)
    return woven


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])
