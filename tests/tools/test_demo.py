from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ecograph
from ecograph.loop import TrainingLoop
from ecograph.tools import demo_arms, demo_model, demo_report
from ecograph.tools.demo_arms import SPARSE_BACKWARD, Arm, Plan, Run, make_plan
from ecograph.tools.demo_verdict import difference, verdict
from ecograph.tools.jobs import Planned, read_job

BATCH = 32


def sparse_model(name: str) -> nn.Module:
    return ecograph.optimize(
        demo_model.build(name), example_inputs=torch.zeros(BATCH, 1, 8, 8), passes=[SPARSE_BACKWARD]
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("tiny", epochs=4)


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
    plan = make_plan("tiny", epochs=epochs)
    model = sparse_model("tiny")
    ecograph.Scheduler(model, epochs=epochs, steps_per_epoch=539 // BATCH)
    report = ecograph.explain(model)
    steps = epochs * (539 // BATCH)
    assert plan.steps_per_epoch == 539 // BATCH and plan.images == (539, 1258)
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
    report = ecograph.explain(sparse_model(name))
    assert sum(bool(layer.rewritten_by) for layer in report.layers) >= len(report.layers) / 2


def lasting(arm: Arm, epochs: int) -> Arm:
    return replace(arm, job=replace(arm.job, loop={**arm.job.loop, "epochs": epochs}))


def test_a_run_can_be_repeated(plan: Plan) -> None:
    arm = lasting(plan.arms[1], 2)
    ticks: list[int] = []
    first = demo_arms.train(arm, seed=1, tick=lambda: ticks.append(1))
    assert len(ticks) == 2 * plan.steps_per_epoch
    second = demo_arms.train(arm, seed=1)
    assert (first.accuracy, first.train_loss) == (second.accuracy, second.train_loss)
    assert demo_arms.train(lasting(arm, 1), seed=2).train_loss != first.train_loss
    assert first.cpu_seconds > 0 and first.wall_seconds > 0


def test_arms_with_the_same_seed_are_paired(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """They begin with the same weights and, from then on, are given the same images, moved alike, in the same order."""
    begin, begun, seen = demo_arms.begin, [], {}

    def look(arm: Arm, **options: Any) -> Planned:
        planned = begin(arm, **options)
        begun.append({name: value.clone() for name, value in planned.ready.model.state_dict().items()})
        given = seen.setdefault((arm.name, options["seed"]), [])
        planned.ready.model.register_forward_pre_hook(
            lambda model, inputs: given.append(inputs[0].clone()) if model.training else None
        )
        return planned

    monkeypatch.setattr(demo_arms, "begin", look)
    dense, sparse, control = plan.arms
    for arm, epochs, seed in ((dense, 3, 0), (sparse, 2, 0), (control, 1, 0), (dense, 1, 1)):
        demo_arms.train(lasting(arm, epochs), seed=seed)
    a_dense, a_sparse, a_control, another = begun
    for name, value in a_dense.items():
        assert torch.equal(value, a_sparse[name]) and torch.equal(value, a_control[name]), name
    assert not torch.equal(a_dense["head.weight"], another["head.weight"])
    images = seen["dense", 0]
    steps = plan.steps_per_epoch
    assert len(images) == 3 * steps and images[0].shape == (BATCH, 1, 8, 8)
    assert torch.equal(torch.stack(seen["sparse", 0]), torch.stack(images[: 2 * steps]))
    assert torch.equal(torch.stack(seen["control", 0]), torch.stack(images[:steps]))
    assert not torch.equal(images[0], images[steps]) and not torch.equal(images[0], seen["dense", 1][0])


def test_only_training_is_timed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither planning nor evaluation is within the time: a clock of ours is read right before and right after."""
    happened: list[str] = []
    begin, run, test = demo_arms.begin, TrainingLoop.run, demo_arms.test

    def noted(name: str, function: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            happened.append(name)
            return function(*given, **options)

        return call

    def trained(loop: TrainingLoop, *given: Any) -> Any:
        assert given[4] is None, "there is nothing to evaluate on"
        return run(loop, *given)

    monkeypatch.setattr(demo_arms, "begin", noted("begin", begin))
    monkeypatch.setattr(TrainingLoop, "run", noted("run", trained))
    monkeypatch.setattr(demo_arms, "test", noted("test", test))
    monkeypatch.setattr(demo_arms.time, "process_time", noted("clock", demo_arms.time.process_time))
    demo_arms.train(lasting(plan.arms[0], 1), seed=0)
    assert happened[:3] == ["begin", "clock", "run"] and happened[-2:] == ["clock", "test"]
    assert set(happened[3:-1]) == {"clock"}, "the loop's own meter reads it too"


def test_the_accuracy_is_that_of_the_test_images(plan: Plan) -> None:
    planned = demo_arms.begin(plan.arms[0], seed=0)
    images, labels = (torch.stack(part) for part in zip(*planned.ready.val_loader.dataset, strict=True))
    share = demo_arms.test(planned)
    model = planned.ready.model.eval()
    with torch.no_grad():
        assert share == pytest.approx((model(images).argmax(1) == labels).sum().item() / 1258)


def test_the_sparse_loop_schedules_the_drop_rate(plan: Plan) -> None:
    dense, sparse, _ = (demo_arms.begin(arm, seed=0).loop.source for arm in plan.arms)
    assert "rates.step()" in sparse and "rates" not in dense


def test_the_learning_rate_spans_the_training(plan: Plan) -> None:
    for arm in plan.arms:
        ready = demo_arms.begin(arm, seed=0).ready
        rates = []
        for _ in range(arm.epochs * plan.steps_per_epoch):
            rates.append(ready.optimizer.param_groups[0]["lr"])
            ready.optimizer.step()
            ready.lr_scheduler.step()
        assert max(rates) == pytest.approx(0.05, rel=0.02) and rates[-1] < 1e-3
        assert rates.index(max(rates)) == pytest.approx(len(rates) / 10, abs=1)


# -- the sparse arm as a job ------------------------------------------------------------------------------------------


def test_the_job_is_the_sparse_arm_and_trains(main: Any, tmp_path: Path) -> None:
    code, text, err = main("demo", "--job", "--model", "tiny", "--epochs", "3")
    assert (code, err) == (0, "")
    (tmp_path / "job.toml").write_text(text, encoding="utf-8")
    job = read_job(tmp_path / "job.toml")
    assert replace(job, top=replace(job.top, output=None)) == demo_arms.sparse_job("tiny", epochs=3)
    assert job.top.output is not None

    code, out, _ = main("train", "job.toml", "--dry-run")
    assert code == 0 and "rates.step()" in out
    assert not (tmp_path / "runs").exists()

    code, out, err = main("train", "job.toml", "--set", "loop.epochs=1", "--set", "loop.progress=false", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert len(report["history"]["epochs"]) == 1 and (tmp_path / job.top.output / "weights.pt").exists()


# -- the verdict ------------------------------------------------------------------------------------------------------


def make_report(plan: Plan, dense: list[float], sparse: list[float], control: list[float]) -> demo_report.Report:
    runs = [
        Run(arm.name, seed, 0, accuracy, 2.0, 2.0, 0.1)
        for arm, accuracies in zip(plan.arms, (dense, sparse, control), strict=True)
        for seed, accuracy in enumerate(accuracies)
    ]
    return demo_report.report(plan, runs, threads=1, seconds=1.0)


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
