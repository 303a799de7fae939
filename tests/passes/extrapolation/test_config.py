from __future__ import annotations

import math
from typing import Any

import pytest

import ecograph
from ecograph import registry
from ecograph.passes import Extrapolate


def test_identity() -> None:
    made = Extrapolate(radius=0.1)
    assert registry.find("extrapolation") is Extrapolate
    assert (made.name, made.numerics) == ("extrapolation", "approximate")
    assert "2006.05720" in made.source
    assert made == Extrapolate(0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"radius": 0.1},
        {"radius": 0, "direction": "local"},
        {"radius": 2, "direction": "noise", "until": 3, "seed": 7},
        {"radius": 0.5, "until": 0.25},
        {"radius": 0.5, "until": 1.0},
    ],
)
def test_json_there_and_back(options: dict[str, Any]) -> None:
    made = Extrapolate(**options)
    assert Extrapolate.from_json(made.to_json()) == made == registry.from_dict(made.to_dict())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"radius=None: give how far"),
        ({"radius": -0.1}, r"radius=-0.1: give .* a finite number from 0"),
        ({"radius": math.inf}, "radius=inf"),
        ({"radius": math.nan}, "radius=nan"),
        ({"radius": True}, "radius=True"),
        ({"radius": "0.1"}, "radius='0.1'"),
        ({"direction": "future"}, "direction='future': give one of 'past', 'noise', 'local'"),
        ({"until": 0}, "until=0: give a number of epochs, 1 or more; or a share"),
        ({"until": -1}, "until=-1"),
        ({"until": 0.0}, "until=0.0"),
        ({"until": 1.5}, "until=1.5"),
        ({"until": math.nan}, "until=nan"),
        ({"until": True}, "until=True"),
        ({"until": "early"}, "until='early'"),
        ({"seed": -1}, "seed=-1: give a whole number, 0 or more"),
        ({"seed": 0.5}, "seed=0.5"),
    ],
)
def test_what_is_out_of_range_is_named_with_the_fix(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Extrapolate(**({"radius": 0.1} if options and "radius" not in options else {}), **options)


def test_not_a_pass_for_the_model() -> None:
    from torch import nn

    with pytest.raises(ValueError, match="TrainingLoop"):
        ecograph.optimize(nn.Linear(2, 2), passes=[Extrapolate(radius=0.1)])
