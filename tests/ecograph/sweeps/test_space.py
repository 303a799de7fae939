from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecograph.passes import SparseBackward
from ecograph.sweeps import Range, parse_space
from ecograph.sweeps.functions import active

SPACE = parse_space(
    {
        "lr@sgd": {"low": 0.01, "high": 1.0, "log": True},
        "lr@adamw": Range(1e-4, 1e-2, log=True),
        "optimizer": ["sgd", "adamw"],
        "epochs": Range(2, 9),
        "passes": [(), (SparseBackward(drop=0.5),)],
    },
    active,
)


@given(st.integers(0, 2**16))
def test_what_is_drawn_is_in_the_space_and_comes_back(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    values = SPACE.suggest(trial)
    low, high = (0.01, 1.0) if values["optimizer"] == "sgd" else (1e-4, 1e-2)
    assert low <= values["lr"] <= high and 2 <= values["epochs"] <= 9
    assert set(values) == {"lr", "optimizer", "epochs", "passes"}
    assert SPACE.values(trial.params) == values
    assert SPACE.params(values) == trial.params


def test_a_setting_outside_has_no_parameters():
    inside = {"optimizer": "sgd", "lr": 0.1, "epochs": 3, "passes": ()}
    assert SPACE.params(inside) is not None
    for change in ({"lr": 2.0}, {"optimizer": "rprop"}, {"epochs": True}):
        assert SPACE.params(inside | change) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "space is empty"),
        (None, "space is empty"),
        ({"lr": []}, r"space\['lr'\]: no value to choose from"),
        ({"lr": 0.1}, "neither a list of values nor a range"),
        ({"lr": "sgd"}, "neither a list of values nor a range"),
        ({"lr": [1, 1]}, "not all different"),
        ({"lr": {"low": 1}}, "give low and high"),
        ({"lr": {"low": 1, "high": 2, "log2": True}}, "give low and high"),
        ({"lr": {"low": 2, "high": 1}}, "exchange them"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "give a number above 0"),
        ({"lr": {"low": 0.0, "high": 1.0, "step": 0}}, "step=0"),
        ({"lr": {"low": "a", "high": 1.0}}, "low='a'"),
    ],
)
def test_says_what_is_wrong(space, message):
    with pytest.raises(ValueError, match=message):
        parse_space(space)
