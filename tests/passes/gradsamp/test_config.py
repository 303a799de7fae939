from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import ecograph
from ecograph import registry
from ecograph.passes import GradSamp


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 2}, "every=2: give 3 or more.*two trained epochs"),
        ({"every": 1}, "every=1: give 3 or more"),
        ({"every": 0}, "every=0: give a whole number"),
        ({"every": 4.0}, "every=4.0"),
        ({"every": True}, "every=True"),
        ({"every": 4, "probability": 0.5}, "every=4 and probability=0.5 are both given.*leave the other out"),
        ({"probability": 0}, "probability=0: give a number above 0"),
        ({"probability": 1.5}, "probability=1.5.*up to 1"),
        ({"probability": float("nan")}, "probability=nan"),
        ({"probability": True}, "probability=True"),
        ({"probability": "0.5"}, "probability='0.5'"),
        ({"granularity": "layer"}, "granularity='layer'.*'tensor', 'channel', 'model', 'element'"),
        ({"mode": "noise"}, "mode='noise'.*'gaussian', 'extrapolate', 'none'"),
        ({"warmup": -1}, "warmup=-1.*0 or more"),
        ({"cooldown": 1.5}, "cooldown=1.5"),
        ({"advance_lr": 1}, "advance_lr=1: give True or False"),
        ({"snapshot": "disk"}, "snapshot='disk'.*'device', 'cpu'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": "x"}, "seed='x'"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GradSamp(**options)


def test_every_fourth_epoch_if_nothing_is_said() -> None:
    assert GradSamp() == GradSamp(every=4) == GradSamp(4)
    assert GradSamp(probability=0.3).every is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"every": 7, "granularity": "channel", "warmup": 2, "cooldown": 3, "advance_lr": False},
        {"probability": 1, "mode": "none", "snapshot": "cpu", "seed": 5},
    ],
)
def test_json_round_trip(options: dict[str, Any]) -> None:
    made = GradSamp(**options)
    assert GradSamp.from_json(made.to_json()) == made
    assert registry.from_dict(made.to_dict()) == made
    assert made.to_dict()["name"] == "gradsamp"


def test_frozen_keyword_only_and_found_by_name() -> None:
    made = GradSamp(5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.every = 6  # type: ignore[misc]
    with pytest.raises(TypeError):
        GradSamp(None, 0.5)  # type: ignore[misc]
    assert registry.find("gradsamp") is GradSamp
    assert made.numerics == "approximate" and "2406.07332" in made.source


def test_options_stay_what_they_are_while_they_are_used() -> None:
    used = GradSamp(3)
    model = nn.Linear(2, 2)
    used.on_epoch_start(model)
    used.on_epoch_start(model)
    assert used == GradSamp(3) and hash(used) == hash(GradSamp(3)) and repr(used) == repr(GradSamp(3))
    for other in (copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
        assert other == used
        assert torch.equal(other.state_dict()["snapshot"]["weight"], model.weight)
    assert dataclasses.replace(used, seed=1).state_dict()["epoch"] == -1


def test_optimize_says_where_a_loop_pass_belongs() -> None:
    with pytest.raises(ValueError, match=r"TrainingLoop\(passes=\[GradSamp\(...\)\]\)"):
        ecograph.optimize(nn.Linear(2, 2), passes=[GradSamp()])
