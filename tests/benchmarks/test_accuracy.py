from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Script = Callable[[str], ModuleType]

WIDTHS = (32, 32)
SCALE = 0.05  # 20 steps


@pytest.fixture
def arms(script: Script, pass_name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two arms of one pass, the second with a dense tail."""
    arms = script("tasks.arms")
    options = {
        "sliceout": {"rate": 0.5, "schedule": "constant"},
        "sparse_backward": {"drop": 0.5, "schedule": "constant", "when": "always"},
    }[pass_name]
    monkeypatch.setitem(arms.ARMS, "some", arms.Arm("some", pass_name, options))
    monkeypatch.setitem(arms.ARMS, "tail", arms.Arm("tail", pass_name, options, tail=0.3))
    return ["dense", "some", "tail"]


@pytest.fixture
def accuracy(script: Script, arms: list[str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a digits task that trains for 20 steps."""
    tasks, training = script("tasks"), script("tasks.training")
    monkeypatch.setitem(tasks.TASKS, "digits", partial(tasks.digits.task, widths=WIDTHS))
    training.make_task.cache_clear()
    training._warm_up.cache_clear()
    yield script("accuracy")
    training.make_task.cache_clear()


@pytest.fixture
def task(script: Script, accuracy: ModuleType) -> Any:
    return script("tasks.training").make_task("digits", SCALE)


def command(path: Path, *more: str) -> list[str]:
    return ["--task", "digits", "--scale", str(SCALE), "--jobs", "1", "--json", str(path), "--arms", "some", *more]


def test_the_control_has_as_many_flops(script: Script, task: Any, arms: list[str]) -> None:
    dense, some, tail = script("tasks.arms").plan(task, arms)
    assert (dense.flops_share, dense.steps, dense.control_steps) == (1, task.steps, task.steps)
    for planned in (some, tail):
        assert planned.flops_share < 1
        assert abs(planned.control_steps - planned.flops_share * task.steps) <= 0.5
    assert tail.flops_share == pytest.approx(0.3 + 0.7 * some.flops_share, abs=1e-6)


def test_each_training_is_planned_once(
    script: Script, accuracy: ModuleType, task: Any, arms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = script("tasks.arms").ARMS
    monkeypatch.setitem(known, "twin", known["some"])  # costs the same, so it has the same control
    plans = {"digits": script("tasks.arms").plan(task, [*arms, "twin"])}
    jobs = accuracy.jobs(plans, 3, SCALE)
    assert len(jobs) == len(set(jobs)) == 3 * (1 + 3 + 2)
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert len({jobs[i].arm + str(jobs[i].steps) for i in (0, 6, 12)}) == 3  # another begins with each seed
    for planned in plans["digits"]:
        for seed in range(3):
            wanted = {(planned.arm, planned.steps), ("dense", planned.control_steps)}
            assert wanted <= {(job.arm, job.steps) for job in jobs if job.seed == seed}


def test_a_run_is_as_long_as_it_says_and_repeats(script: Script, task: Any) -> None:
    train = script("tasks.training").train
    seen = []
    counted = replace(task, batches=lambda seed: (seen.append(seed) or batch for batch in task.batches(seed)))
    train(counted, "dense", seed=5, steps=3)
    assert seen == [5] * 3
    first, again, other = (train(task, "some", seed=seed, steps=task.steps) for seed in (0, 0, 1))
    assert set(first) == {"value", "train_loss", "cpu_seconds", "wall_seconds"}
    assert (first["value"], first["train_loss"]) == (again["value"], again["train_loss"])
    assert first["train_loss"] != other["train_loss"]
    assert 0 < first["value"] <= 100


def test_rows_and_file(accuracy: ModuleType, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "out.json"
    accuracy.main(command(path, "--seeds", "2"))
    data = json.loads(path.read_text())
    assert set(data) == {"machine", "tasks", "arms", "summary", "runs"}
    dense, some = data["summary"]["digits"]
    assert dense["arm"] == "dense" and dense["flops_share"] == dense["cpu_share"] == 1
    assert {"against_dense", "against_control", "against_control_error", "control_steps", "control_mean"} <= set(some)
    values = {(run["arm"], run["steps"], run["seed"]): run["value"] for run in data["runs"]}
    assert len(values) == len(data["runs"]) == 6
    gap = [values["some", 20, seed] - values["dense", some["control_steps"], seed] for seed in range(2)]
    assert some["against_control"] == pytest.approx(sum(gap) / 2)
    assert some["against_control_error"] == pytest.approx(abs(gap[0] - gap[1]) / 2)
    assert "less control" in capsys.readouterr().out


def test_an_interrupted_benchmark_goes_on(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, done, train = tmp_path / "out.json", [], accuracy.run

    def run(job: Any) -> dict[str, Any]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job)
        return train(job)

    monkeypatch.setattr(accuracy, "run", run)
    with pytest.raises(KeyboardInterrupt):
        accuracy.main(command(path, "--seeds", "1"))
    before = json.loads(path.read_text())["runs"]
    assert len(before) == 2
    monkeypatch.setattr(accuracy, "run", lambda job: done.append(job) or train(job))
    accuracy.main(command(path, "--seeds", "1", "--resume"))
    data = json.loads(path.read_text())
    assert data["runs"][:2] == before
    assert len(data["runs"]) == len(done) == len(set(done)) == 3
    assert data["summary"]["digits"][1]["seeds"] == 1

    with pytest.raises(SystemExit):
        accuracy.main(command(path, "--seeds", "1"))
    assert "give --resume" in capsys.readouterr().err


def test_results_of_other_settings_are_not_mixed_in(script: Script, tmp_path: Path) -> None:
    results = script("tasks.results")
    path = tmp_path / "out.json"
    results.Results(path, {"tasks": {"digits": {"batch": 32}}, "arms": {"dense": {}}}).write()
    arms = {"dense": {}, "new": {}}
    more = results.Results(path, {"tasks": {"text": {}}, "arms": arms}, resume=True)
    more.write()
    assert json.loads(path.read_text())["tasks"] == {"digits": {"batch": 32}, "text": {}}
    with pytest.raises(results.ResultsError, match="other settings for digits"):
        results.Results(path, {"tasks": {"digits": {"batch": 16}}, "arms": arms}, resume=True)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "machine": {"cpu": "another"}}))
    with pytest.raises(results.ResultsError, match="measured elsewhere"):
        results.Results(path, {"tasks": {}, "arms": {}}, resume=True)
    path.write_text("[]")
    with pytest.raises(results.ResultsError, match="not a file of this benchmark"):
        results.Results(path, {"tasks": {}, "arms": {}}, resume=True)


def test_difference_is_paired(script: Script) -> None:
    difference = script("tasks.report").difference
    mean, error = difference([3.0, 5.0, 10.0], [1.0, 4.0, 7.0])
    assert mean == 2.0
    assert error == pytest.approx(1 / math.sqrt(3))
    assert difference([1.0], [3.0]) == (-2.0, None)


def test_a_text_model_learns(script: Script) -> None:
    task = script("tasks.text").task(scale=0.05, width=32, heads=2, depth=1)
    result = script("tasks.training").train(task, "dense", seed=0, steps=task.steps)
    assert result["value"] < math.log(256) - 0.5


def test_the_command(tmp_path: Path) -> None:
    """As it is called from anywhere; that trainings come back from processes is seen in test_large_batch.py."""
    script = Path(__file__).parents[2] / "benchmarks" / "accuracy.py"
    done = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sliceout-0.5" in done.stdout
