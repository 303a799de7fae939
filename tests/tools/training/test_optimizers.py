from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ecograph.tools.errors import UserError
from ecograph.tools.training.optimizers import OPTIMIZERS, make_optimizer


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ("AdamW", {"betas": [0.9, 0.95]}, torch.optim.AdamW),
        ("rmsprop", {}, torch.optim.RMSprop),
        ("torch.optim:NAdam", {"lr": 0.5}, torch.optim.NAdam),
    ],
)
def test_by_name(name: str, options: dict[str, Any], kind: type) -> None:
    made = make_optimizer(name, nn.Linear(2, 2).parameters(), options)
    assert type(made) is kind
    for option, value in options.items():
        assert made.defaults[option] == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sdg", {}, ("'sdg'", "did you mean sgd", "adamw")),
        ("lbfgs", {}, ("'lbfgs'", "adamw")),
        ("sgd", {"lrr": 1}, ("'lrr'", "did you mean 'lr'")),
        ("sgd", {"lr": -1.0}, ("lr=-1.0", "Invalid learning rate")),
        ("sgd", {"lr": "high"}, ("lr='high'",)),
        ("adam", {"betas": [0.9]}, ("betas=[0.9]",)),
        ("nothing:SGD", {}, ("no module 'nothing'",)),
        ("torch.optim:SGGD", {}, ("no 'SGGD'",)),
        ("torch:pi", {}, ("is a float",)),
        ("torch.nn:ReLU", {}, ("returned a ReLU",)),
    ],
)
def test_mistakes(name: str, options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=f"optimizer '{name}'") as caught:
        make_optimizer(name, nn.Linear(2, 2).parameters(), options)
    for word in words:
        assert word in str(caught.value)


def test_all_of_torch_are_there() -> None:
    assert {"sgd", "adam", "adamw", "adagrad", "rmsprop", "nadam", "radam"} <= set(OPTIMIZERS)
