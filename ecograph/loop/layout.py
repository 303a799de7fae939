"""Lays out the text that `ast.unparse` wrote as a person would: double quotes, and no line too long.

`ast.unparse` puts each statement on one line, however long. Here a long line is broken at its widest pair of
brackets: first with everything between them on a line of its own, then, if that is still too long, with
one element per line and a trailing comma, as black and ruff do.
"""

from __future__ import annotations

import ast
import io
import textwrap
import tokenize
from collections.abc import Iterator
from itertools import pairwise

WIDTH = 88
INDENT = "    "


def lay_out(text: str, width: int = WIDTH) -> str:
    """Return `text` laid out anew; it means the same.

    Lines inside a string that spans several lines are left as they are.
    """
    kept = _lines_inside_strings(text)
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        lines += [line] if number in kept else _break(_as_written(line.rstrip()), width)
    laid_out = "\n".join(lines) + "\n"
    assert ast.dump(ast.parse(laid_out)) == ast.dump(ast.parse(text)), f"the layout changed the code:\n{text}"
    return laid_out


def _lines_inside_strings(text: str) -> set[int]:
    spans = [(token.start[0], token.end[0]) for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    return {line for start, end in spans if start != end for line in range(start, end + 1)}


def _as_written(line: str) -> str:
    """Return one line of statement as a person would write it."""
    return _spaced_defaults(_bare_tuple(_double_quoted(line)))


def _double_quoted(line: str) -> str:
    for token in _tokens(line):
        text = token.string
        plain = token.type == tokenize.STRING and text.startswith("'") and not text.startswith("'''")
        if plain and '"' not in text and "\\" not in text:
            line = f'{line[: token.start[1]]}"{text[1:-1]}"{line[token.end[1] :]}'
    return line


def _bare_tuple(line: str) -> str:
    """Take away the brackets around a tuple that is returned, looped over or assigned to."""
    for opened, closed, commas in _brackets(line)[:1]:
        place = line[:opened].strip(), line[closed + 1 :][:3]
        single = line[closed - 1] == ","
        if commas and not single and place in (("return", ""), ("for", " in"), ("", " = ")):
            return line[:opened] + line[opened + 1 : closed] + line[closed + 1 :]
    return line


def _spaced_defaults(line: str) -> str:
    """Put spaces around the `=` of an annotated argument's default, as in `decay: float = 0.9`."""
    if not line.lstrip().startswith("def "):
        return line
    depth = 0
    annotated = False
    places = []
    for token in _tokens(line):
        depth += (token.string in tuple("([{")) - (token.string in tuple(")]}"))
        if depth == 1 and token.string in (":", ","):
            annotated = token.string == ":"
        elif depth == 1 and token.string == "=" and annotated:
            places.append(token.start[1])
    for column in reversed(places):
        line = f"{line[:column].rstrip()} = {line[column + 1 :].lstrip()}"
    return line


def _break(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    if line.lstrip().startswith("#"):
        text = line.lstrip()
        start = line[: len(line) - len(text)] + "# "
        return textwrap.wrap(text.lstrip("# "), width, initial_indent=start, subsequent_indent=start)
    is_import = line.startswith("from ")
    if is_import:
        line = line.replace(" import ", " import (") + ")"
    opened, closed, commas = max(_brackets(line), key=lambda pair: pair[1] - pair[0], default=(0, 0, []))
    if closed - opened <= 1:
        return [line]
    margin = line[: len(line) - len(line.lstrip())]
    inside = margin + INDENT + line[opened + 1 : closed]
    if not commas or (len(inside) <= width and not is_import):
        middle = _break(inside, width)
    else:
        edges = [opened, *commas, closed]
        elements = [line[start + 1 : end].strip() for start, end in pairwise(edges)]
        middle = [part for each in elements if each for part in _break(f"{margin}{INDENT}{each},", width)]
    return [line[: opened + 1], *middle, margin + line[closed:]]


def _brackets(line: str) -> list[tuple[int, int, list[int]]]:
    """Return where each outermost pair of brackets opens and closes, and the commas right inside it."""
    pairs: list[tuple[int, int, list[int]]] = []
    open_at: list[int] = []
    commas: list[int] = []
    comprehension = False  # has no elements that could stand on lines of their own
    for token in _tokens(line):
        column = token.start[1]
        if token.string in tuple("([{"):
            if not open_at:
                commas, comprehension = [], False
            open_at.append(column)
        elif token.string in tuple(")]}") and open_at:
            opened = open_at.pop()
            if not open_at:
                pairs.append((opened, column, [] if comprehension else commas))
        elif len(open_at) == 1:
            commas += [column] if token.string == "," else []
            comprehension |= token.string == "for"
    return pairs


def _tokens(line: str) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens of one line, which need not be a whole statement; columns are those of `line`."""
    try:
        yield from tokenize.generate_tokens(io.StringIO(line).readline)
    except (tokenize.TokenError, IndentationError):
        return  # the end of a line that opens a block; its tokens were all yielded before
