from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

Script = Callable[[str], ModuleType]


@pytest.fixture
def target(script: Script) -> ModuleType:
    return script("target")


@pytest.fixture
def large_batch(script: Script, target: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a goal on digits that takes no time."""
    found = script("large_batch")
    goal = replace(found.quick(found.GOALS["digits"]), budget=2, target=15.0)
    monkeypatch.setattr(found, "GOALS", {"digits": goal})
    monkeypatch.setattr(found, "quick", lambda goal: goal)
    return found


def attempt(large_batch: ModuleType, name: str, rate: float = 0.02, seed: int = 1, **goal: Any) -> Any:
    wanted = replace(large_batch.GOALS["digits"], **goal)
    return large_batch.Attempt("digits", wanted, large_batch.ARMS[name], name, rate, seed)


def test_rebatched_keeps_the_order(target: ModuleType) -> None:
    def batches() -> Any:
        for i in range(0, 30, 3):
            yield torch.arange(i, i + 3), -torch.arange(i, i + 3)

    for size in (1, 2, 3, 7, 15):
        found = target.rebatched(batches(), size)
        for start in range(0, 30 - size, size):
            inputs, targets = next(found)
            assert inputs.tolist() == list(range(start, start + size))
            assert torch.equal(targets, -inputs)


def test_all_arms_see_the_same_samples(large_batch: ModuleType, target: ModuleType) -> None:
    task = target.make_task("digits", large_batch.GOALS["digits"].options)
    small, large = target.rebatched(task.batches(3), 8), target.rebatched(task.batches(3), 256)
    parts = [next(small) for _ in range(32)]
    inputs, targets = next(large)
    assert torch.equal(inputs, torch.cat([part for part, _ in parts]))
    assert torch.equal(targets, torch.cat([part for _, part in parts]))


def test_a_run_ends_at_the_target(large_batch: ModuleType, target: ModuleType) -> None:
    found = target.run(attempt(large_batch, "small"))
    assert found["reached"] and not found["diverged"]
    assert found["values"][-1] >= 15 and all(value < 15 for value in found["values"][:-1])
    assert found["taken"] == found["epochs"] * 64 and found["batch"] == 8
    assert found["joules"] == pytest.approx(7 * found["cpu_seconds"]) and found["energy_source"].startswith("modelled")
    again = target.run(attempt(large_batch, "small"))
    assert (again["values"], again["taken"]) == (found["values"], found["taken"])


def test_a_run_ends_with_its_budget(large_batch: ModuleType, target: ModuleType) -> None:
    found = target.run(attempt(large_batch, "past-1", target=101.0))
    assert not found["reached"] and not found["diverged"]
    assert found["taken"] == attempt(large_batch, "past-1").steps == 4
    assert len(found["values"]) == 2 and found["best"] == max(found["values"])


def test_a_run_that_explodes_is_given_up(large_batch: ModuleType, target: ModuleType) -> None:
    found = target.run(attempt(large_batch, "large", rate=1e6, target=101.0, budget=20))
    assert found["diverged"] and not found["reached"]
    assert found["taken"] < 40


def test_extrapolation_makes_a_difference_and_can_end_early(large_batch: ModuleType, target: ModuleType) -> None:
    names = ("large", "past-1", "past-4", "noise-0.05")
    ends = [target.run(attempt(large_batch, name, target=101.0))["loss"] for name in names]
    assert len(set(ends)) == len(names)
    early = attempt(large_batch, "past-1", target=101.0)
    never = replace(early, way=replace(early.way, until=0))
    assert target.run(never)["loss"] == ends[0]


def test_every_arm_chooses_its_own_rate(large_batch: ModuleType) -> None:
    goal = replace(large_batch.GOALS["digits"], rates=(0.1, 0.2), scales=(1, 0.5))

    def rates(name: str) -> list[float]:
        return [each.rate for each in large_batch.candidates("digits", goal, name, 0.1)]

    assert rates("small") == [0.1, 0.2]
    assert rates("linear") == [3.2]
    assert rates("large") == rates("past-1") == [3.2, 1.6]
    assert {each.seed for each in large_batch.candidates("digits", goal, "large", 0.1)} == {0}


def test_merit(large_batch: ModuleType) -> None:
    runs = [
        {"reached": True, "epochs": 3.0, "best": 98.0},
        {"reached": True, "epochs": 5.0, "best": 99.0},
        {"reached": False, "epochs": 1.0, "best": 97.0},
        {"reached": False, "epochs": 1.0, "best": 90.0},
        {"reached": False, "epochs": 0.5, "best": None},
    ]
    assert sorted(runs[::-1], key=lambda run: large_batch.merit(run, 1)) == runs
    losses = [{"reached": False, "epochs": 1.0, "best": best} for best in (2.0, 3.0, None)]
    assert sorted(losses[::-1], key=lambda run: large_batch.merit(run, -1)) == losses


def test_means_only_where_all_seeds_reached_it(large_batch: ModuleType) -> None:
    run = {"reached": True, "epochs": 2.0, "taken": 4, "cpu_seconds": 1.0, "joules": 7.0, "best": 50.0}
    run |= {"energy_source": "modelled:7 W per busy core"}
    some = attempt(large_batch, "large")
    both = large_batch.row(some, [run, {**run, "epochs": 4.0}])
    assert (both["reached"], both["epochs"]) == (2, 3.0) and both["epochs_std"] == pytest.approx(math.sqrt(2))
    one = large_batch.row(some, [run, {**run, "reached": False}])
    assert (one["reached"], one["epochs"], one["joules"], one["joules_std"]) == (1, None, None, None)


def test_the_command_writes_what_it_prints_and_goes_on(
    large_batch: ModuleType, target: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path, done, run = tmp_path / "out.json", [], target.run

    def counted(each: Any) -> dict[str, Any]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(each)
        return run(each)

    command = ["--quick", "--jobs", "1", "--json", str(path)]
    monkeypatch.setattr(target, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        large_batch.main(command)
    assert len(json.loads(path.read_text())["runs"]) == 4
    monkeypatch.setattr(target, "run", lambda each: done.append(each) or run(each))
    large_batch.main([*command, "--resume"])
    data = json.loads(path.read_text())
    assert set(data) == {"machine", "tasks", "arms", "summary", "runs"}
    assert len(data["runs"]) == len(done) == len(set(done)) == 8  # four arms, for the rate and for the figures
    rows = {row["arm"]: row for row in data["summary"]["digits"]}
    assert set(rows) == set(data["arms"]) == {"small", "large", "past-1", "noise-0.01"}
    assert rows["large"]["batch"] == 32 * rows["small"]["batch"]
    assert rows["large"]["rate"] == pytest.approx(rows["small"]["rate"] * 2)  # 1/16 of 32 times
    assert all(row["energy_source"] == "modelled:7 W per busy core" for row in rows.values())
    printed = capsys.readouterr().out
    assert "energy: modelled" in printed and "past, radius 1 x rate" in printed
    with pytest.raises(SystemExit):
        large_batch.main(command)
    assert "give --resume" in capsys.readouterr().err


def test_in_processes(script: Script, large_batch: ModuleType, target: ModuleType) -> None:
    some = [attempt(large_batch, "large", seed=seed, target=101.0, budget=1) for seed in (1, 2)]
    with script("processes").workers(2) as pool:
        # one after the other, so that one process does both
        found = [run for each in some for run in script("processes").outcomes(target.run, [each], pool)]
    assert [run["values"] for run in found] == [target.run(each)["values"] for each in some]


def test_goals_fit_their_tasks(script: Script, target: ModuleType) -> None:
    large_batch = script("large_batch")
    assert set(large_batch.GOALS) == {"digits", "text"}
    for name, goal in large_batch.GOALS.items():
        task = target.make_task(name, goal.options)
        assert goal.batch * large_batch.FACTOR <= goal.epoch
        assert task.higher_is_better is (name == "digits")
