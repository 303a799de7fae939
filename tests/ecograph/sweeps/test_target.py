from __future__ import annotations

import math

import pytest

from ecograph.sweeps import Target
from ecograph.sweeps.target import check_quantity


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("val_accuracy >= 0.97", [0.97, 1.0], [0.969, math.nan, None]),
        ("val_accuracy>0.97", [0.971], [0.97]),
        ("val_loss <= 0.1", [0.1, 0.0], [0.11, math.inf]),
        ("mine < 3", [2.9, -5], [3.0]),
    ],
)
def test_is_reached_by_what_is_good_enough(text, good, bad):
    target = Target.parse(text)
    assert all(target.reached(value) for value in good)
    assert not any(target.reached(value) for value in bad)
    assert Target.parse(str(target)) == target


def test_less_is_missing_the_better_a_value_is():
    up, down = Target.parse("val_accuracy >= 0.9"), Target.parse("val_loss <= 0.5")
    assert up.shortfall(0.8) == pytest.approx(0.1) and up.better(0.8, 0.7) and not up.better(0.6, 0.7)
    assert down.shortfall(0.6) == pytest.approx(0.1) and down.better(0.6, 0.7) and down.better(3.0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val_accuracy <= 0.97", "better the higher it is: write val_accuracy >= 0.97"),
        ("val_loss >= 0.1", "better the lower it is: write val_loss <= 0.1"),
        ("error_rate > 0.1", "write error_rate <= 0.1"),
        ("val_accuracy", "must compare a value with a number"),
        ("val_accuracy >= much", "must compare a value with a number"),
        ("", "must compare a value with a number"),
        (None, "must compare a value with a number"),
    ],
)
def test_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        Target.parse(text)


def test_quantities():
    assert check_quantity("co2") == "co2"
    with pytest.raises(ValueError, match="give one of energy, time"):
        check_quantity("joy")
