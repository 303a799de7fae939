from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ecograph.passes.sliceout.config import Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 1.0}, "rate=1.0.*below 1"),
        ({"rate": -0.1}, "rate=-0.1"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate": "0.5"}, "rate='0.5'"),
        ({"rate": True}, "rate=True"),
        ({"normalization": "batch"}, "normalization='batch'.*'flow'"),
        ({"starts": "random"}, "starts='random'.*'grid'"),
        ({"schedule": "sometimes"}, "schedule='sometimes'.*'alternate'"),
        ({"update": "sgd"}, "update='sgd'.*'autograd'.*'slice'"),
        ({"align": 0}, "align=0.*1 or more"),
        ({"align": 8.0}, "align=8.0"),
        ({"min_width": True}, "min_width=True"),
        ({"seed": -1}, "seed=-1.*0 or more"),
        ({"seed": "1"}, "seed='1'"),
        ({"max_scale": 0.5}, "max_scale=0.5.*1 or more"),
        ({"max_scale": float("inf")}, "max_scale=inf"),
        ({"max_scale": True}, "max_scale=True"),
        ({"filter_fn": "mlp"}, "filter_fn='mlp'.*function"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Options(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 0},
        {"rate": 0.25, "normalization": "probability", "starts": "any", "max_scale": 2, "schedule": "cosine"},
        {"align": 1, "min_width": 1, "update": "slice", "seed": 7, "starts": "blocks"},
    ],
)
def test_json_round_trip(options: dict[str, Any]) -> None:
    made = Options(**options)
    again = Options.from_json(made.to_json())
    assert again == made
    assert made.to_dict()["name"] == "sliceout"
    assert "filter_fn" not in made.to_dict()


def test_a_filter_is_no_json_and_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match=r"filter_fn.*JSON"):
        Options(filter_fn=lambda module, name: True).to_json()
    with pytest.raises(ValueError, match=r"'rates'.*'rate'"):
        Options.from_dict({"name": "sliceout", "rates": 0.5})


def test_frozen_and_keyword_only() -> None:
    made = Options(0.25)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.rate = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Options(0.5, "flow")  # type: ignore[misc]
    assert (made.name, made.numerics) == ("sliceout", "approximate")
    assert "2007.10909" in made.source
