from __future__ import annotations

import pytest
import torch
from torch import nn

from ecograph.sweeps import Target, memory
from ecograph.sweeps import attempt as module
from ecograph.sweeps.attempt import Attempt, Stopped, attempt

TARGET = Target.parse("val_accuracy >= 0.75")
GOOD = {"lr": 0.05, "batch_size": 16, "epochs": 6}


def test_ends_where_the_target_is_first_reached(functions):
    """Its cost is that of the epochs so far, by the loop's own meter; the rest of the training is not run."""
    became = attempt(functions, GOOD, seed=0, target=TARGET, minimize="energy")
    assert became.outcome == "reached" and became.epochs < 6
    values = [value for *_, value in became.curve]
    assert [TARGET.reached(value) for value in values] == [False] * (len(values) - 1) + [True]
    assert became.cost["energy"] == became.curve[-1][0] > 0 and became.cost["time"] == became.curve[-1][1]
    assert became.spent["energy"] >= became.cost["energy"] and became.spent["time"] >= became.cost["time"]
    assert became.cost["co2"] == pytest.approx(became.cost["energy"] / 3.6e6 * 473)
    assert became.energy_source.startswith(("modelled", "measured"))
    assert Attempt.from_dict(became.to_dict()) == became


def test_is_the_loop_of_its_own(functions):
    """Next to the same training without a search: as many epochs, the same accuracy after each."""
    became = attempt(functions, GOOD, seed=3, target=TARGET, minimize="energy")
    training = functions.training(GOOD, seed=3, stop=None, callbacks=())
    history = training.loop.run(*training.arguments)
    assert [value for *_, value in became.curve] == history.column("val_accuracy")[: became.epochs]


def test_a_target_that_is_not_reached_counts_as_such(functions):
    became = attempt(
        functions, {**GOOD, "lr": 1e-3}, seed=0, target=Target.parse("val_accuracy >= 1"), minimize="energy"
    )
    assert (became.outcome, became.epochs) == ("not reached", 6)
    assert became.best == max(value for *_, value in became.curve)


def test_flops_are_counted(functions):
    became = attempt(functions, GOOD, seed=0, target=TARGET, minimize="flops")
    # Two linear layers: 2 FLOPs a weight and sample forward, twice that backward, no grad_input for the first.
    samples, first, second = 192, 8 * 16, 16 * 3
    assert became.cost["flops"] == pytest.approx(became.epochs * samples * (4 * first + 6 * second), rel=0.1)


def test_whoever_watches_may_stop_it(functions):
    def tell(epochs, value, cost):
        assert cost["energy"] > 0 and cost["time"] > 0
        if epochs == 2:
            raise Stopped("pruned")

    became = attempt(functions, GOOD, seed=0, target=Target.parse("val_accuracy >= 1"), minimize="energy", tell=tell)
    assert (became.outcome, became.epochs) == ("pruned", 2)


def test_a_loss_that_explodes_is_an_outcome(functions):
    fixed = {"optimizer": "sgd", "schedule": "none"}
    functions = functions.__class__(**{**vars(functions), "fixed": fixed})
    became = attempt(functions, {**GOOD, "lr": 1e30}, seed=0, target=TARGET, minimize="energy")
    assert became.outcome == "diverged" and "loss" in became.reason


def test_what_does_not_fit_in_memory_is_infeasible(functions, monkeypatch):
    """By the recorded step, before any of it is run."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000)
    became = attempt(functions, GOOD, seed=0, target=TARGET, minimize="energy")
    assert became.outcome == "infeasible" and "are free" in became.reason and became.epochs == 0


def test_so_is_what_the_allocator_refuses(functions):
    class Huge(nn.Linear):
        def forward(self, x):
            torch.empty(2**60)
            return super().forward(x)

    functions = functions.__class__(**{**vars(functions), "make_model": lambda: Huge(8, 3)})
    became = attempt(functions, GOOD, seed=0, target=TARGET, minimize="energy")
    assert became.outcome == "infeasible" and "out of memory" in became.reason


def test_errors_of_the_user_stay_errors(functions):
    def broken():
        raise RuntimeError("shapes do not fit")

    functions = functions.__class__(**{**vars(functions), "make_model": broken})
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        attempt(functions, GOOD, seed=0, target=TARGET, minimize="energy")


def test_all_outcomes_have_words():
    assert len({module.REACHED, module.NOT_REACHED, module.PRUNED, module.TOO_DEAR, module.DIVERGED}) == 5
