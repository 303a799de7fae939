from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from ecograph.tools.jobs.fits import fits, in_words, may_be_none

#: annotation -> values that fit, values that do not, in words
HINTS: list[tuple[Any, list[Any], list[Any], str]] = [
    (bool, [True], [1, "true", None], "true or false"),
    (int, [3, -1], [True, 3.0, "3"], "a whole number"),
    (float, [3, 3.5], [True, "3", None], "a number"),
    (str, ["x"], [3, ["x"]], "text in quotes"),
    (Path, ["x"], [3], "text in quotes"),
    (int | None, [3, None], [True, "x"], "a whole number or false"),
    (Literal["a", "b"], ["a"], ["c", 1], '"a" or "b"'),
    (Literal["a"] | None, ["a", None], ["b"], '"a" or false'),
    (Sequence[str], [[], ["x"]], ["x", [1]], "a list of text in quotes"),
    (str | Sequence[str] | None, ["x", ["x"], None], [3, [3]], "text in quotes or a list of text in quotes or false"),
    (str | Path, ["x"], [None], "text in quotes"),
    (Callable[..., Any], [], ["x", 3], ""),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "good", "bad", "words"), HINTS, ids=[str(hint) for hint, *_ in HINTS])
def test_fits(hint: Any, good: list[Any], bad: list[Any], words: str) -> None:
    assert all(fits(value, hint) for value in good)
    assert not any(fits(value, hint) for value in bad)
    assert in_words(hint) == words
    assert may_be_none(hint) == (None in good)
