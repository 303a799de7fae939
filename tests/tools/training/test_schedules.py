"""Learning rates over a whole training, as the loop advances them, against what torch's own classes are known to do."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn
from torch.optim import SGD

from ecograph.tools.errors import UserError
from ecograph.tools.training.schedules import SCHEDULES, default_lr_step, make_schedule

EPOCHS, STEPS = 4, 5


def rates(name: str, lr_step: Any, **options: Any) -> list[float]:
    """The learning rate at each advance of a whole training, the first and the last included."""
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    made: Any = make_schedule(name, optimizer, options, lr_step=lr_step, epochs=EPOCHS, steps_per_epoch=STEPS)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(EPOCHS * (STEPS if lr_step == "step" else 1)):
        optimizer.step()
        made.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("lr_step", ["epoch", "step"])
def test_they_span_the_training(lr_step: str) -> None:
    total = EPOCHS * (STEPS if lr_step == "step" else 1)
    half_cosine = [0.1 * (1 + math.cos(math.pi * at / total)) / 2 for at in range(total + 1)]
    assert rates("cosine", lr_step) == pytest.approx(half_cosine, abs=1e-12)
    assert rates("linear", lr_step) == pytest.approx([0.1 * (1 - at / total) for at in range(total + 1)], abs=1e-12)
    cycle = rates("onecycle", lr_step, pct_start=0.5)
    assert max(cycle) == pytest.approx(0.1, rel=0.1) and cycle[0] < 0.01
    assert cycle[total - 1] < 1e-5, "at the last step or epoch; the advance after it is torch's business"


def test_their_options_are_torch_s() -> None:
    assert rates("step", "epoch", step_size=2) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    assert rates("multistep", "epoch", milestones=[1, 3], gamma=0.5) == pytest.approx([0.1, 0.05, 0.05, 0.025, 0.025])
    assert rates("exponential", "epoch", gamma=0.5)[-1] == pytest.approx(0.1 / 16)
    assert rates("cosine", "epoch", T_max=2, eta_min=0.01)[2] == pytest.approx(0.01)


def test_none_and_plateau() -> None:
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    options: Any = {"lr_step": "val_loss", "epochs": None, "steps_per_epoch": None}
    assert make_schedule("none", optimizer, {}, **options) is None
    made: Any = make_schedule("plateau", optimizer, {"patience": 0, "factor": 0.5}, **options)
    for loss in (1.0, 2.0):
        made.step(loss)
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("name", SCHEDULES)
def test_where_nobody_says_when(name: str) -> None:
    fits = default_lr_step(name)
    given: dict[str, Any] = {
        "step": {"step_size": 1}, "multistep": {"milestones": [1]}, "exponential": {"gamma": 0.5},
    }.get(name, {})  # fmt: skip
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    assert make_schedule(name, optimizer, given, lr_step=fits, epochs=2, steps_per_epoch=3) is not None


@pytest.mark.parametrize(
    ("name", "options", "facts", "words"),
    [
        ("cosin", {}, {}, ("'cosin'", "did you mean cosine", "onecycle")),
        ("cosine", {"eta": 1}, {}, ("'eta'", "did you mean 'eta_min'")),
        ("cosine", {"last_epoch": 1}, {}, ("'last_epoch'",)),
        ("step", {}, {}, ("needs the option 'step_size'",)),
        ("onecycle", {"pct_start": 3.0}, {}, ("pct_start",)),
        ("none", {"gamma": 3.0}, {}, ("'gamma'", "cosine")),
        ("plateau", {}, {}, ("each epoch", 'lr_step="val_loss"')),
        ("cosine", {}, {"lr_step": "val_loss"}, ("validation loss", 'lr_step="step"')),
        ("cosine", {}, {"epochs": None}, ("epochs = NUMBER",)),
        ("cosine", {}, {"lr_step": "step", "steps_per_epoch": None}, ("no length", 'lr_step="epoch"')),
    ],
)
def test_mistakes(name: str, options: Any, facts: Any, words: tuple[str, ...]) -> None:
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(UserError, match=f"schedule '{name}'") as caught:
        make_schedule(name, optimizer, options, **{"lr_step": "epoch", "epochs": 2, "steps_per_epoch": 3, **facts})
    for word in words:
        assert word in str(caught.value)
