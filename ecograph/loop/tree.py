"""Small operations on the syntax tree of a loop."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping

from ecograph.loop.fragment import blocks, comment, comment_text
from ecograph.loop.values import Code


def slot_name(statement: ast.stmt) -> str | None:
    """Return the name of the slot that a statement marks, or None: `slot("a")`, or `with slot("a"): ...`."""
    match statement:
        case ast.Expr(value=marker) | ast.With(items=[ast.withitem(context_expr=marker)]):
            pass
        case _:
            return None
    match marker:
        case ast.Call(func=ast.Name(id="slot"), args=[ast.Constant(value=str(name))]):
            return name
    return None


def blocks_within(statements: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Yield a list of statements, and every such list inside it."""
    yield statements
    for statement in statements:
        for block in blocks(statement):
            yield from blocks_within(block)


def is_gap(statement: ast.stmt) -> bool:
    """Say whether a statement is the `...` that stands for the code around which a fragment is put."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is ...
    )


def empty_slot(marker: ast.stmt) -> ast.With:
    """Return the slot that the statement `slot("name")` marks."""
    assert isinstance(marker, ast.Expr)
    slot = ast.With(items=[ast.withitem(context_expr=marker.value)], body=[])
    return ast.copy_location(slot, marker)


def sign(statements: list[ast.stmt], origin: str) -> None:
    """Say in a comment who made these statements: in front of their own first comment, or above them."""
    first = next((at for at, each in enumerate(statements) if comment_text(each) != ""), 0)
    text = comment_text(statements[first]) if statements else ""
    if text is None:
        statements.insert(first, comment(f"# {origin}"))
    elif text:
        statements[first] = comment(f"# {origin}: {text.lstrip('# ')}")


class Fill(ast.NodeTransformer):
    """Puts expressions in the place of names."""

    def __init__(self, values: Mapping[str, Code], *, reads_only: bool) -> None:
        """Fill names from `values`; with `reads_only`, not those that are assigned to."""
        self.values = values
        self.reads_only = reads_only
        self.filled: set[str] = set()

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802 (the name that ast calls)
        """Return what stands in the place of a name."""
        if node.id not in self.values or (self.reads_only and not isinstance(node.ctx, ast.Load)):
            return node
        self.filled.add(node.id)
        return copy.deepcopy(self.values[node.id].expression)
