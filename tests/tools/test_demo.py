from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import ecograph
from ecograph.tools import demo_arms, demo_data, demo_model, demo_report
from ecograph.tools.demo_arms import BATCH, Plan, Run, learning_rate, make_plan
from ecograph.tools.demo_data import Batches, Digits, shifted
from ecograph.tools.demo_verdict import difference, verdict
from ecograph.tools.errors import UserError


@pytest.fixture(scope="module")
def digits() -> Digits:
    return demo_data.load()


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("tiny", epochs=4, images=539)


# -- the command ------------------------------------------------------------------------------------------------------


def test_json_in_a_process_of_its_own(cli: Any) -> None:
    done = cli("demo", "--epochs", "1", "--seeds", "1", "--model", "tiny", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert [arm["name"] for arm in data["arms"]] == ["dense", "sparse", "control"]
    for arm in data["arms"]:
        assert arm["epochs"] == len(arm["runs"]) == 1
        assert arm["accuracy_std"] is None
        assert arm["flops_source"] == "counted"
        assert arm["seconds_source"].startswith("measured")
        assert arm["energy_source"].startswith("modelled:") and arm["energy_joules_mean"] > 0
    # One epoch of the alternate schedule is dense, so the three arms are one and the same training.
    assert len({arm["runs"][0]["accuracy"] for arm in data["arms"]}) == 1
    assert len({arm["flops"] for arm in data["arms"]}) == 1
    assert "--epochs 2" in data["verdict"][0]


def test_the_table(main: Any) -> None:
    code, out, err = main("demo", "--epochs", "2", "--seeds", "2", "--model", "tiny")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 100
    for word in ("sparse backward", "control", "counted", "measured", "modelled", "±", "539 images", "Whether"):
        assert word in out


# -- the arms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 2, 3, 20])
def test_the_control_costs_what_explain_counts(epochs: int) -> None:
    plan = make_plan("tiny", epochs=epochs, images=539)
    model = ecograph.optimize(
        demo_model.build("tiny"), example_inputs=torch.zeros(BATCH, 1, 8, 8), passes=[demo_arms.sparse_backward()]
    )
    ecograph.Scheduler(model, epochs=epochs, steps_per_epoch=539 // BATCH)
    report = ecograph.explain(model)
    steps = epochs * (539 // BATCH)
    dense, sparse, control = plan.arms
    assert dense.flops == report.before.total * steps
    assert sparse.flops == report.after.total * steps
    assert plan.control_exact == pytest.approx(epochs * report.after.total / report.before.total)
    assert control.epochs == max(1, round(plan.control_exact))
    assert control.flops * dense.epochs == dense.flops * control.epochs
    # Within half an epoch of the same budget.
    assert abs(control.flops - sparse.flops) <= dense.flops / epochs / 2


def test_flops_are_those_of_the_real_step(plan: Plan) -> None:
    model = demo_model.build("tiny")
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(torch.zeros(BATCH, 1, 8, 8)), torch.zeros(BATCH, dtype=torch.int64)).backward()
    assert plan.arms[0].flops == counter.get_total_flops() * plan.steps_per_epoch * plan.arms[0].epochs


@pytest.mark.parametrize("name", demo_model.MODELS)
def test_models_gain_from_a_sparse_backward(name: str) -> None:
    report = ecograph.explain(demo_arms.sparse_model(name))
    assert sum(bool(layer.rewritten_by) for layer in report.layers) >= len(report.layers) / 2


def test_a_run_can_be_repeated(plan: Plan, digits: Digits) -> None:
    arm = replace(plan.arms[1], epochs=2)
    first, second = (demo_arms.train(plan, arm, digits, seed=1) for _ in range(2))
    assert (first.accuracy, first.train_loss) == (second.accuracy, second.train_loss)
    assert demo_arms.train(plan, arm, digits, seed=2).train_loss != first.train_loss
    assert first.cpu_seconds > 0 and first.wall_seconds > 0


def test_the_sparse_loop_schedules_the_drop_rate(plan: Plan) -> None:
    dense, sparse, _ = (demo_arms.training_loop(arm).source for arm in plan.arms)
    assert "rates.step()" in sparse and "rates" not in dense


@pytest.mark.parametrize("total", [2, 10, 320])
def test_the_learning_rate_spans_the_training(total: int) -> None:
    rates = [learning_rate(step, total=total) for step in range(total)]
    assert 0 < rates[0] <= 1 and max(rates) == 1
    assert learning_rate(total, total=total) == pytest.approx(0, abs=1e-9)
    assert all(rate >= 0 for rate in rates)


# -- the data ---------------------------------------------------------------------------------------------------------


def test_the_split(digits: Digits) -> None:
    assert digits.train_images.shape == (539, 1, 8, 8) and digits.test_images.shape == (1258, 1, 8, 8)
    assert digits.train_images.mean().abs() < 1e-5
    shares = [labels.bincount() / len(labels) for labels in (digits.train_labels, digits.test_labels)]
    torch.testing.assert_close(shares[0], shares[1], atol=2e-3, rtol=0)
    torch.testing.assert_close(digits.test_images, demo_data.load().test_images)


def test_batches(digits: Digits) -> None:
    ticks: list[int] = []
    images, labels = digits.train_images, digits.train_labels
    batches = Batches(images, labels, size=BATCH, seed=0, tick=lambda: ticks.append(1))
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) == 16 and len(ticks) == 32
    assert all(x.shape == (BATCH, 1, 8, 8) and y.shape == (BATCH,) for x, y in first)
    assert not torch.equal(first[0][1], second[0][1])
    again = list(Batches(images, labels, size=BATCH, seed=0))
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))


def test_shifts_are_at_most_a_pixel() -> None:
    image = torch.zeros(200, 1, 8, 8)
    image[:, 0, 4, 4] = 1
    moved = shifted(image, torch.Generator().manual_seed(0))
    positions = {tuple(position) for position in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert positions == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r'pip install "ecograph\[demo\]"'):
        demo_data.load()


# -- the verdict ------------------------------------------------------------------------------------------------------


def make_report(plan: Plan, dense: list[float], sparse: list[float], control: list[float]) -> demo_report.Report:
    runs = [
        Run(arm.name, seed, 0, accuracy, 2.0, 2.0, 0.1)
        for arm, accuracies in zip(plan.arms, (dense, sparse, control), strict=True)
        for seed, accuracy in enumerate(accuracies)
    ]
    return demo_report.report(plan, runs, images=(539, 1258), threads=1, seconds=1.0)


@pytest.mark.parametrize(
    ("dense", "sparse", "control", "words"),
    [
        ([0.98, 0.981, 0.979], [0.98, 0.981, 0.979], [0.96, 0.961, 0.958], ["did better than the control"]),
        ([0.98, 0.981, 0.979], [0.95, 0.951, 0.949], [0.98, 0.98, 0.98], ["below dense", "The control did better"]),
        ([0.98, 0.981, 0.979], [0.98, 0.981, 0.979], [0.98, 0.981, 0.979], ["as good", "gained nothing"]),
        ([0.98, 0.95, 0.99], [0.97, 0.98, 0.93], [0.98, 0.94, 0.96], ["seeds cannot tell", "Whether it beats"]),
        ([0.98], [0.5], [0.98], ["One seed"]),
    ],
)
def test_verdict(plan: Plan, dense: list[float], sparse: list[float], control: list[float], words: list[str]) -> None:
    text = " ".join(verdict(make_report(plan, dense, sparse, control)))
    for word in words:
        assert word in text


def test_difference_is_paired() -> None:
    gap = difference([0.90, 0.95, 0.99], [0.89, 0.94, 0.98])
    assert gap.points == pytest.approx(1) and gap.margin == pytest.approx(0, abs=1e-9) and gap.clear
    scipy_stats = pytest.importorskip("scipy.stats")
    first, second = [0.98, 0.95, 0.99, 0.97], [0.97, 0.96, 0.97, 0.96]
    gap = difference(first, second)
    low, high = scipy_stats.ttest_rel(first, second).confidence_interval(0.95)
    assert gap.margin == pytest.approx(100 * (high - low) / 2, rel=5e-3)
    assert difference([0.9], [0.8]).margin == math.inf


def test_report_is_json_and_every_seed_is_in_it(plan: Plan) -> None:
    data = make_report(plan, [0.9, 0.8], [0.7, 0.9], [0.9, 0.9]).to_dict()
    data = json.loads(json.dumps(data, allow_nan=False))
    assert [[run["accuracy"] for run in arm["runs"]] for arm in data["arms"]] == [[0.9, 0.8], [0.7, 0.9], [0.9, 0.9]]
    assert data["arms"][0]["accuracy_mean"] == pytest.approx(0.85)
