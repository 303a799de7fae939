"""Python values to source: what an option looks like in the text of a loop."""

from __future__ import annotations

import ast
import dataclasses
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch


@dataclass(frozen=True)
class Code:
    """An expression, and the imports it needs."""

    expression: ast.expr
    imports: tuple[ast.Import | ast.ImportFrom, ...] = ()


def code(text: str, *, imports: str = "") -> Code:
    """Return the expression written in `text`; `imports` holds the import statements it needs.

    Raises:
        SyntaxError: if `text` is not one expression.
        ValueError: if `imports` holds anything but import statements.
    """
    statements = ast.parse(imports).body
    needed = tuple(each for each in statements if isinstance(each, ast.Import | ast.ImportFrom))
    if len(needed) != len(statements):
        raise ValueError(f"imports={imports!r} may hold import statements only")
    return Code(ast.parse(text, mode="eval").body, needed)


def literal(value: object) -> Code:
    """Return the code that makes `value` again.

    Numbers, strings, containers, dtypes, functions and classes are written as one would by hand. A dataclass
    is written as a call of its class with the fields that differ from their defaults, so that
    `GradSamp(every=4)` reads as it was written by the user.

    Raises:
        ValueError: if there is no such code, for instance for a lambda or a tensor.
    """
    match value:
        case Code():
            return value
        case ast.expr():
            return Code(value)
        case float() if not math.isfinite(value):
            return code(f'float("{value}")')
        case bool() | int() | float() | complex() | str() | bytes() | None:
            return code(repr(value))
        case torch.dtype():
            return code(str(value), imports="import torch")
        case tuple() | list() | set() | frozenset() | dict():
            return _container(value)
        case FunctionType() | BuiltinFunctionType() | type():
            return _imported(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _constructor(value)
    raise ValueError(f"{value!r} cannot be written as source: use numbers, strings or a dataclass of them")


def _constructor(value: Any) -> Code:
    parts = {
        each.name: literal(getattr(value, each.name))
        for each in dataclasses.fields(value)
        if each.init and not _is_default(each, getattr(value, each.name))
    }
    maker = _imported(type(value))
    keywords = [ast.keyword(arg=name, value=part.expression) for name, part in parts.items()]
    call = ast.Call(func=maker.expression, args=[], keywords=keywords)
    return Code(call, maker.imports + _imports(parts.values()))


def _is_default(each: dataclasses.Field[Any], value: object) -> bool:
    if each.default_factory is not dataclasses.MISSING:
        return bool(value == each.default_factory())
    return each.default is not dataclasses.MISSING and bool(value == each.default)


def _container(value: Any) -> Code:
    if isinstance(value, dict):
        keys, values = [literal(key) for key in value], [literal(each) for each in value.values()]
        made: ast.expr = ast.Dict(
            keys=[key.expression for key in keys], values=[v.expression for v in values]
        )
        return Code(made, _imports(keys + values))
    parts = [literal(each) for each in value]
    elements = [part.expression for part in parts]
    match value:
        case tuple():
            made = ast.Tuple(elts=elements, ctx=ast.Load())
        case list():
            made = ast.List(elts=elements, ctx=ast.Load())
        case set() if elements:
            made = ast.Set(elts=elements)
        case _:
            inner: list[ast.expr] = [ast.List(elts=elements, ctx=ast.Load())] if elements else []
            made = ast.Call(func=ast.Name(id=type(value).__name__, ctx=ast.Load()), args=inner, keywords=[])
    return Code(made, _imports(parts))


def _imported(value: Any) -> Code:
    """Name a class or function by an import from the shortest package that offers it."""
    module, name = value.__module__, value.__qualname__
    if not name.isidentifier() or getattr(sys.modules.get(module), name, None) is not value:
        raise ValueError(f"{name} of {module} cannot be imported: define it at the top of a module")
    if module == "builtins":
        return code(name)
    parts = module.split(".")
    packages = [".".join(parts[: length + 1]) for length in range(len(parts))]
    public = next(each for each in packages if getattr(sys.modules.get(each), name, None) is value)
    return code(name, imports=f"from {public} import {name}")


def _imports(parts: Iterable[Code]) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(each for part in parts for each in part.imports)
