from __future__ import annotations

import json
import math

import optuna
import pytest
import rich
import torch
from small_sweeps import SPACE, make_loaders, make_model
from torch import nn

import ecograph
from ecograph.errors import NeverReachedWarning
from ecograph.sweeps import Budget, Row, Sweep, Target, page
from ecograph.sweeps.attempt import Attempt
from ecograph.sweeps.plots import pareto, svg

ARGUMENTS = {"target": "val_accuracy >= 0.75", "space": SPACE, "budget": 6, "progress": False}


def run(**changes):
    return ecograph.sweep(make_model, make_loaders, **{**ARGUMENTS, **changes})


def test_finds_a_setting_and_tells_what_it_took(tmp_path, capsys):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    found = run(storage=tmp_path / "s.db", repeats=2, fixed={"lr": 0.01, "epochs": 6})
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found.rows) == 6 and found.reached
    assert found.rows[0].values == {"lr": 0.01, "batch_size": 32, "epochs": 6} or found.baseline is None
    best = found.best
    assert {each.seed for each in best.attempts} == set(range(5)) and len(best.attempts) == 5
    assert {each.seed for each in best.confirmations} == {3, 4}, "seeds that it was not chosen by"
    reached = [each for each in best.confirmations if each.outcome == "reached"]
    assert best.cost == pytest.approx(sum(each.cost["energy"] for each in best.confirmations) / len(reached))
    assert found.spread >= 1
    everything = (
        sum(each.spent["energy"] for row in found.rows for each in row.attempts) + found.probes["spent"]["energy"]
    )
    assert found.search_cost == pytest.approx(everything)

    assert [each["batch_size"] for each in found.probes["batches"]] == [16, 64]
    assert all(each["joules_per_sample"] > 0 and 0 <= each["loader_share"] <= 1 for each in found.probes["batches"])
    assert found.probes["largest_batch"] == 64

    front = found.front()
    assert all(a[0] <= b[0] and a[1] < b[1] for a, b in zip(front, front[1:], strict=False))
    json.dumps(found.to_dict(), allow_nan=False)
    rich.print(found)
    printed = capsys.readouterr().out
    assert "Probes" in printed and "the search took" in printed
    text = page.page(found, "seed = 0")
    assert text.count("<svg") >= 1 and "seed = 0" in text and "https:" not in text.split("<svg")[0]


def test_goes_on_with_what_is_there(tmp_path):
    storage = f"sqlite:///{tmp_path / 's.db'}"
    first = run(storage=storage, budget=3, probes=False, finalists=0)
    with pytest.raises(ValueError, match="resume it"):
        run(storage=storage, probes=False)
    second = run(storage=storage, budget=5, probes=False, finalists=0, resume=True)
    assert [row.to_dict() for row in second.rows[:3]] == [row.to_dict() for row in first.rows]
    assert len(second.rows) == 5
    for change, named in ({"target": "val_accuracy >= 0.8"}, "target"), ({"minimize": "time"}, "minimize"):
        with pytest.raises(ValueError, match=f"begun with {named}"):
            run(storage=storage, resume=True, probes=False, **change)


def test_any_storage_of_optuna():
    storage = optuna.storages.InMemoryStorage()
    run(storage=storage, budget=2, probes=False, finalists=0)
    assert optuna.get_all_study_names(storage) == ["sweep"]


def test_a_target_that_is_never_reached(capsys):
    with pytest.warns(NeverReachedWarning, match="nearest came to"):
        found = run(target="val_accuracy > 1", budget=2, probes=False, space={"epochs": [1, 2]})
    assert found.best is None and found.spread is None and found.pays_back_after is None
    assert {row.attempt.outcome for row in found.rows} <= {"not reached", "pruned"}
    rich.print(found)
    assert "lower the target" in " ".join(capsys.readouterr().out.split())


def test_goes_on_where_a_setting_cannot_be_trained():
    def loaders(batch_size=32):
        if batch_size == 64:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return make_loaders(batch_size)

    found = ecograph.sweep(make_model, loaders, **ARGUMENTS | {"budget": 8, "finalists": 0})
    outcomes = {row.values["batch_size"]: row.attempt.outcome for row in found.rows}
    assert outcomes[64] == "infeasible" and outcomes[16] in ("reached", "not reached", "pruned", "too dear")
    assert not found.probes.get("batches") or found.probes["largest_batch"] == 16


def test_stops_where_no_setting_can_be_trained():
    def broken():
        raise KeyError("nothing works")

    with pytest.raises(KeyError, match="nothing works"):
        ecograph.sweep(broken, make_loaders, **ARGUMENTS | {"probes": False, "fixed": {"epochs": 5}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, "space is empty"),
        ({"space": {"learning_rate": [0.1]}}, "neither make_model nor make_loaders has a parameter 'learning_rate'"),
        ({"target": "val_accuracy <= 0.75"}, "better the higher"),
        ({"target": "val_f1 >= 0.75"}, "there is no val_f1"),
        ({"minimize": "joy"}, "minimize='joy'"),
        ({"minimize": "money"}, "price"),
        ({"budget": 0}, "give trials as a whole number"),
        ({"budget": {"weeks": 1}}, "budget has no 'weeks'"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, "cannot be opened"),
        ({"storage": "bogus://x"}, "cannot be opened"),
    ],
    ids=str,
)
def test_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        run(**change)


def test_budgets():
    assert Budget.parse({"trials": 3, "joules": 5.0}) == Budget(3, None, 5.0)
    found = run(budget={"trials": 50, "joules": 1e-3}, probes=False, finalists=0)
    assert len(found.rows) == 1, "the first trial has taken more than that"


def test_passes_and_precision_can_vary():
    space = {"passes": [(), "gradsamp"], "amp": [None, "bf16"], "epochs": [5], "lr": [0.05]}
    found = ecograph.sweep(make_model, make_loaders, **ARGUMENTS | {"space": space, "budget": 4, "finalists": 0})
    assert not [row.attempt.reason for row in found.rows if row.attempt.outcome == "failed"]


def row(number, joules, outcome="reached", repeats=(), value=0.9, confirmations=()):
    def made(amount, outcome, seed):
        cost = {"energy": amount}
        return Attempt(
            outcome, seed, cost=cost, spent=cost, best=value, curve=[[amount, 1.0, value]], energy_source="modelled:x"
        )

    again = tuple(made(amount, result, seed + 1) for seed, (amount, result) in enumerate(repeats))
    confirmed = tuple(made(amount, result, seed + 100) for seed, (amount, result) in enumerate(confirmations))
    return Row(number, {"lr": number}, made(joules, outcome, 0), again, confirmations=confirmed)


def sweep_of(*rows, **more):
    return Sweep("s", Target.parse("val_accuracy >= 0.9"), "energy", rows, **more)


def test_the_best_is_the_best_on_average():
    lucky = row(0, 1.0, repeats=[(4.0, "reached"), (4.0, "reached")])
    steady = row(1, 2.0, repeats=[(2.0, "reached"), (2.0, "reached")])
    found = sweep_of(lucky, steady, row(2, 5.0), row(3, 9.0, "not reached"))
    assert found.best is steady and found.worst.number == 2 and found.spread == 2.5
    unreliable = row(4, 1.5, repeats=[(1.5, "not reached"), (1.5, "not reached")])
    assert unreliable.cost == 4.5 and sweep_of(unreliable, steady).best is steady, "what failed is paid for, too"


def test_a_promise_is_of_seeds_that_had_no_part_in_the_choice():
    """A simulation: settings that all cost 10 on average, with a seed's luck on top; the best of them promises 10."""
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        return [(10 + torch.randn((), generator=generator).item(), "reached") for _ in range(count)]

    chosen = []
    for _ in range(200):
        made = [row(number, draw(1)[0][0], repeats=draw(4)) for number in range(20)]
        best = sweep_of(*made).best
        confirmed = row(20, best.attempt.cost["energy"], repeats=[(a.cost["energy"], "reached") for a in best.repeats],
                        confirmations=draw(4))  # fmt: skip
        chosen.append((best.cost, sweep_of(*made, confirmed).best.cost))
    lucky, promised = (torch.tensor(chosen).mean(0)).tolist()
    assert lucky < 9.5 and promised == pytest.approx(10, abs=0.12)
    never = row(0, 1.0, confirmations=[(1.0, "not reached")])
    assert never.cost is None and sweep_of(never, row(1, 5.0)).best.number == 1


def test_the_best_is_repeated_until_its_luck_has_lasted(functions):
    """The first setting reached the target by luck, once: its repeat does not, and the second takes its place."""
    import optuna

    from ecograph.sweeps import search
    from ecograph.sweeps.study import ATTEMPT, CONFIRMS, REPEAT_OF, SEED

    study = optuna.create_study()
    plan = search.Plan(Target.parse("val_accuracy >= 0.9"), "energy", Budget(2), finalists=4, repeats=2)

    def told(params, cost, outcome, **more):
        became = Attempt(outcome, 0, cost={"energy": cost}, spent={"energy": cost})
        kind = optuna.distributions.FloatDistribution(0, 10)
        done = outcome == "reached"
        study.add_trial(
            optuna.trial.create_trial(
                params={"lr": params},
                distributions={"lr": kind},
                value=cost if done else None,
                state=optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.PRUNED,
                user_attrs={ATTEMPT: became.to_dict(), **more},
            )
        )

    told(1.0, 1.0, "reached")
    told(2.0, 1.5, "reached")
    asked = []
    while search._repeat_the_best(study, plan):
        waiting = study.ask()
        number, lr = waiting.user_attrs[REPEAT_OF], waiting.suggest_float("lr", 0, 10)
        asked.append((number, waiting.user_attrs[SEED]))
        more = {key: waiting.user_attrs[key] for key in (REPEAT_OF, CONFIRMS) if key in waiting.user_attrs}
        study.tell(waiting, state=optuna.trial.TrialState.FAIL)
        told(lr, lr, "not reached" if number == 0 else "reached", **more)
    assert asked == [(0, 1), (1, 1), (1, 2), (1, 3), (1, 4)], "the last two confirm it"


def test_one_whose_confirmations_are_dear_falls_back_behind_the_next():
    from optuna.trial import TrialState, create_trial

    from ecograph.sweeps import search
    from ecograph.sweeps.study import ATTEMPT, CONFIRMS, REPEAT_OF

    study = optuna.create_study()
    plan = search.Plan(Target.parse("val_accuracy >= 0.9"), "energy", Budget(2), finalists=4, repeats=2)
    kind = optuna.distributions.FloatDistribution(0, 10)

    def told(lr, cost, **more):
        became = Attempt("reached", 0, cost={"energy": cost}, spent={"energy": cost})
        study.add_trial(
            create_trial(
                params={"lr": lr}, distributions={"lr": kind}, value=cost, state=TrialState.COMPLETE,
                user_attrs={ATTEMPT: became.to_dict(), **more},
            )
        )  # fmt: skip

    told(1.0, 1.0)
    told(2.0, 2.0)
    asked = []
    while search._repeat_the_best(study, plan):
        waiting = study.ask()
        more = {key: waiting.user_attrs[key] for key in (REPEAT_OF, CONFIRMS) if key in waiting.user_attrs}
        waiting.suggest_float("lr", 0, 10)
        study.tell(waiting, state=TrialState.FAIL)
        asked.append((more[REPEAT_OF], CONFIRMS in more))
        told(0.0, 9.0 if asked[-1] == (0, True) else more[REPEAT_OF] + 1.0, **more)
    # after one dear confirmation the second setting is ahead: it is repeated, and confirmed
    assert asked == [(0, False)] * 2 + [(0, True)] + [(1, False)] * 2 + [(1, True)] * 2
    dear = row(0, 1.0, repeats=[(1.0, "reached")] * 2, confirmations=[(9.0, "reached")] * 2)
    steady = row(1, 2.0, repeats=[(2.0, "reached")] * 2, confirmations=[(2.0, "reached")] * 2)
    assert sweep_of(dear, steady).best is steady


def test_workers_that_look_at_once_do_nothing_twice(functions):
    """Each of them begins a trial where only one is left, takes up the same lost one, and repeats the same setting."""
    from optuna.trial import TrialState, create_trial

    from ecograph.sweeps.study import AGAIN, ATTEMPT, REPEAT_OF, SEED, SURPLUS, is_surplus

    study = optuna.create_study()
    done, lost, given_up = {ATTEMPT: {}}, {}, {SURPLUS: True}
    repeat = {REPEAT_OF: 0, SEED: 3, AGAIN: None}
    for state, attributes in (
        (TrialState.PRUNED, done), (TrialState.FAIL, lost), (TrialState.FAIL, given_up), (TrialState.WAITING, repeat),
        (TrialState.RUNNING, {AGAIN: 1}), (TrialState.RUNNING, {AGAIN: 1}), (TrialState.RUNNING, {}),
        (TrialState.RUNNING, {}), (TrialState.WAITING, repeat), (TrialState.WAITING, repeat | {SEED: 4}),
    ):  # fmt: skip
        study.add_trial(create_trial(state=state, user_attrs=attributes, value=None))
    # of a budget of three: the first, the one that takes up the lost one, and one of two that were begun at once
    assert [is_surplus(study, number, 3) for number in range(3, 10)] == [False, False, True, False, True, True, False]


@pytest.mark.parametrize("minimize", ["flops", "co2"])
def test_gives_up_what_costs_many_times_the_best(minimize):
    found = run(
        space={"optimizer": ["adamw", "adadelta"]}, fixed={"lr": 0.003, "epochs": 200, "schedule": "none"}, budget=4,
        minimize=minimize, probes=False, prune=False, finalists=0, give_up=2.0,
    )  # fmt: skip
    assert found.rows[0].values == {"optimizer": "adamw"} and found.best.cost > 0
    slow = [row.attempt for row in found.rows if row.values["optimizer"] == "adadelta"]
    assert slow and {each.outcome for each in slow} == {"too dear"}
    assert all(each.epochs < 200 and each.cost[minimize] > 2 * found.best.cost for each in slow)


def test_when_it_pays_back():
    found = sweep_of(row(0, 10.0), row(1, 4.0), start={"lr": 0})
    assert found.search_cost == 14.0 and found.compared_with == ("the setting that you began with", 10.0)
    assert found.pays_back_after == pytest.approx(14 / 6)
    assert sweep_of(row(0, 3.0)).pays_back_after is None


def test_a_plot_is_the_same_each_time():
    found = sweep_of(row(0, 10.0), row(1, 4.0), row(2, 7.0, "not reached", value=0.5))
    assert svg(pareto(found)) == svg(pareto(found)) and not math.isnan(found.front()[0][0])


def test_the_metric_may_be_a_function():
    def top(outputs, targets):
        return (outputs.argmax(1) == targets).float().mean()

    found = run(metric=top, target="val_top >= 0.7", budget=2, probes=False, loss_fn=nn.functional.cross_entropy)
    assert len(found.rows) == 2
