from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from ecograph.rewrite import options
from ecograph.rewrite.options import PassOptions


@dataclass(frozen=True)
class Example(PassOptions):
    name: ClassVar[str] = "example"
    numerics: ClassVar[str] = "exact"
    source: ClassVar[str] = "none"

    share: float = 0.5
    _: dataclasses.KW_ONLY
    parts: tuple[str, ...] = ("a", "b")
    filter_fn: Callable[[Any, str], bool] | None = None


class Pass(Example):
    """A pass derives from its options."""


def test_json_types_and_no_functions() -> None:
    made = Pass(0.25, filter_fn=lambda module, name: True)
    assert made.to_dict() == {"name": "example", "share": 0.25, "parts": ["a", "b"]}
    with pytest.raises(ValueError, match=r"filter_fn.*JSON"):
        made.to_json()


def test_what_is_read_is_the_pass() -> None:
    again = Pass.from_json(Pass(0.25).to_json())
    assert type(again) is Pass
    assert again.share == 0.25
    with pytest.raises(ValueError, match=r"Pass has no option 'shares'; it has \['filter_fn', 'parts', 'share'\]"):
        Pass.from_dict({"shares": 1})


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (
            lambda v: options.share_below_one("drop", v, "dense", 0.8),
            [0, 0.0, 0.99],
            [1, -0.1, True, "0", None],
            "drop=",
        ),
        (lambda v: options.one_of("by", v, ("a", "b")), ["a", "b"], ["c", None, ["a"]], r"by=.*'a', 'b'"),
        (lambda v: options.whole_number("align", v, 1), [1, 8], [0, 1.0, True, "1"], r"align=.*1 or more"),
        (lambda v: options.true_or_false("skip", v), [True, False], [0, "no", None], r"skip=.*True or False"),
        (lambda v: options.filter_function("filter_fn", v), [None, len], ["fc", 3], r"filter_fn=.*or None"),
    ],
)
def test_checks(check: Any, good: list[Any], bad: list[Any], words: str) -> None:
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match=words):
            check(value)
