"""What a generated loop says about itself: read from its text, which its owner may have changed since."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from ecograph.tools.training.course import Course
from ecograph.tools.training.schedules import LrStep


def course_of(train: Callable[..., Any]) -> Course:
    """Returns the course of the loop that the function ``train`` of a file goes through."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(train)))
    names = _code(train).co_names
    distributed = "Ranks" in names
    return Course(
        epochs=_epochs(tree),
        lr_step=_lr_step(tree),
        accumulate=_accumulate(tree),
        own_loss="loss_of" in names,
        distributed=distributed,
        evaluate=None if distributed else train.__globals__.get("evaluate"),  # it would wait for the other processes
    )


def needs_rates(train: Callable[..., Any]) -> bool:
    """Whether the loop sets the rates of passes on the model, which must have been optimized."""
    return "Scheduler" in _code(train).co_names


def arguments(train: Callable[..., Any]) -> list[str]:
    """Returns the names of its keyword-only arguments."""
    return [p.name for p in inspect.signature(train).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _code(train: Callable[..., Any]) -> Any:
    return train.__code__


def _epochs(tree: ast.AST) -> int | None:
    """Returns the number in ``epochs = 30``; None where something else stands there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["epochs"]:
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            return value if isinstance(value, int) else None
    return None


def _lr_step(tree: ast.AST) -> LrStep | None:
    """Returns when ``lr_scheduler.step()`` is called: in the loop over epochs, or in one within it."""
    found: LrStep | None = None
    for call, loops in _calls(tree, 0):
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "lr_scheduler.step":
            if call.args:
                return "val_loss"
            if loops > 1:
                return "step"
            found = "epoch"
    return found


def _accumulate(tree: ast.AST) -> int:
    """Returns the number in ``grouped(train_loader, 4)``, which makes that many batches one step."""
    for call, _ in _calls(tree, 0):
        if isinstance(call.func, ast.Name) and call.func.id == "grouped" and len(call.args) == 2:
            value = call.args[1]
            if isinstance(value, ast.Constant) and isinstance(value.value, int):
                return value.value
    return 1


def _calls(node: ast.AST, loops: int) -> Iterator[tuple[ast.Call, int]]:
    """Yields every call, with the number of loops that it is in."""
    if isinstance(node, ast.Call):
        yield node, loops
    inside = loops + isinstance(node, (ast.For, ast.While))
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, inside)
