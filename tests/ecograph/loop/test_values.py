import ast
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from ecograph.loop.values import code, literal


@dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True)
class Outer:
    every: int
    rate: float = 0.5
    name: str = "tensor"
    inner: Inner = Inner()
    names: list[str] = field(default_factory=list)
    cached: int = field(init=False, default=7)
    key: Any = None


def rebuilt(value: object) -> object:
    made = literal(value)
    names: dict[str, Any] = {}
    for statement in made.imports:
        exec(ast.unparse(statement), names)
    return eval(ast.unparse(made.expression), names)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -3,
        1e-5,
        math.inf,
        -math.inf,
        True,
        None,
        "it's",
        b"x",
        2j,
        (),
        (1,),
        (1, "a"),
        [1, [2]],
        {1, 2},
        set(),
        frozenset(),
        frozenset({3}),
        {"a": (1, 2), 3: None},
        torch.bfloat16,
        len,
        math.sqrt,
        Outer,
        Outer(every=4),
        Outer(4, 0.25, inner=Inner(2), names=["a"], key=(torch.float16, Inner(3))),
    ],
    ids=repr,
)
def test_the_code_makes_the_value_again(value: object) -> None:
    again = rebuilt(value)
    assert again == value
    assert type(again) is type(value)


def test_a_dataclass_shows_only_what_was_set() -> None:
    assert ast.unparse(literal(Outer(every=4)).expression) == "Outer(every=4)"
    assert ast.unparse(literal(Outer(4, inner=Inner(2))).expression) == "Outer(every=4, inner=Inner(depth=2))"


def test_a_class_is_imported_from_the_shortest_package_that_has_it() -> None:
    statement = literal(torch.nn.modules.linear.Linear).imports[0]
    assert ast.unparse(statement) == "from torch.nn import Linear"


@dataclass(frozen=True)
class Holder:
    value: Any


def test_what_cannot_be_written_is_refused() -> None:
    @dataclass
    class Local:
        x: int = 1

    for value in (lambda x: x, torch.ones(1), object(), Local(), Local, Holder(torch.ones(1)), [object()]):
        with pytest.raises(ValueError, match="cannot be"):
            literal(value)


def test_code_takes_one_expression_and_imports_only() -> None:
    assert ast.unparse(code("math.pi", imports="import math").expression) == "math.pi"
    with pytest.raises(SyntaxError):
        code("x = 1")
    with pytest.raises(ValueError, match="import statements only"):
        code("x", imports="x = 1")
