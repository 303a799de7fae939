from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ecograph.passes import SparseBackward


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": 1.0}, "drop=1.0.*below 1"),
        ({"drop": -0.1}, "drop=-0.1"),
        ({"drop": float("nan")}, "drop=nan"),
        ({"drop": float("inf")}, "drop=inf"),
        ({"drop": "0.8"}, "drop='0.8'"),
        ({"drop": True}, "drop=True"),
        ({"drop": None}, "drop=None"),
        ({"schedule": "sometimes"}, "schedule='sometimes'.*'alternate'"),
        ({"schedule": ["alternate"]}, "schedule=.*'alternate'"),
        ({"select": "best"}, "select='best'.*'topk'"),
        ({"when": "now"}, "when='now'.*'pays'"),
        ({"grads": ()}, r"grads=\(\)"),
        ({"grads": ("bias",)}, "grads=.*'weight'"),
        ({"grads": None}, "grads=None"),
        ({"grads": 3}, "grads=3"),
        ({"grads": "inputs"}, "grads="),
        ({"align": 0}, "align=0.*1 or more"),
        ({"align": 2.0}, "align=2.0"),
        ({"align": True}, "align=True"),
        ({"min_channels": 0}, "min_channels=0"),
        ({"min_channels": "16"}, "min_channels='16'"),
        ({"unbiased": True}, "unbiased=True.*select='random'"),
        ({"unbiased": 1}, "unbiased=1.*True or False"),
        ({"skip_first": "no"}, "skip_first='no'"),
        ({"skip_last": None}, "skip_last=None"),
        ({"filter_fn": "conv"}, "filter_fn='conv'.*function"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SparseBackward(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drop": 0},
        {"drop": 0.5, "schedule": "cosine", "select": "random", "unbiased": True},
        {"grads": ("weight",), "align": 8, "min_channels": 1, "skip_first": False, "skip_last": False},
        {"grads": "input", "when": "always"},
    ],
)
def test_json_round_trip(options: dict[str, Any]) -> None:
    made = SparseBackward(**options)
    again = SparseBackward.from_json(made.to_json())
    assert again == made
    assert type(again) is SparseBackward
    assert made.to_dict()["name"] == "sparse_backward"
    assert again.grads == made.grads


def test_a_filter_is_no_json_and_an_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match="filter_fn.*JSON"):
        SparseBackward(filter_fn=lambda module, name: True).to_json()
    with pytest.raises(ValueError, match="'dropp'.*'drop'"):
        SparseBackward.from_dict({"name": "sparse_backward", "dropp": 0.5})


def test_frozen_and_keyword_only() -> None:
    made = SparseBackward(0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.drop = 0.2
    with pytest.raises(TypeError):
        SparseBackward(0.5, "constant")
    assert (made.name, made.numerics) == ("sparse_backward", "approximate")
    assert "2408.12561" in made.source
    assert dataclasses.replace(made, drop=0.2).drop == 0.2
