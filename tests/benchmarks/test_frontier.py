from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

Script = Callable[[str], ModuleType]

pytest.importorskip("matplotlib")


@pytest.fixture
def frontier(script: Script, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a digits task that trains for a few steps."""
    sizes = script("tasks.sizes")
    digits = script("tasks.digits")
    small = partial(digits.task, 0.1, widths=(32, 32))
    monkeypatch.setitem(sizes.SIZES, "digits", {"short": small, "long": small})
    sizes.make_task.cache_clear()
    script("tasks.ways").warm_up.cache_clear()
    yield script("frontier")
    sizes.make_task.cache_clear()


def test_trainings_are_kept_and_gone_on_with(frontier: ModuleType, script: Script, tmp_path: Path, capsys) -> None:
    path = tmp_path / "out.json"
    command = ["--short", "--task", "digits", "--ways", "gradsamp-4", "--shares", "0.5", "--jobs", "1"]
    command += ["--json", str(path), "--factors", "0.5", "1", "--rounds", "1"]
    frontier.main([*command, "--seeds", "1"])
    first = json.loads(path.read_text())
    # tuning: 3 points at 2 factors; then each of the points once
    assert len(first["runs"]) == 9
    assert {run["energy_source"].partition(":")[0] for run in first["runs"]} <= {"modelled", "measured"}
    frontier.main([*command, "--seeds", "2", "--resume"])
    second = json.loads(path.read_text())
    assert second["runs"][:9] == first["runs"] and len(second["runs"]) == 12
    rows = second["summary"]["digits"]
    assert {(row["way"], row["share"]) for row in rows} == {
        ("dense", 0.5),
        ("dense", 1.0),
        ("gradsamp-4", 1.0),
    }  # fmt: skip
    gradsamp = next(row for row in rows if row["way"] == "gradsamp-4")
    assert gradsamp["flops"] == pytest.approx(0.75, abs=0.06)
    assert set(gradsamp["merit"]["dense"]) == {"joules", "cpu_seconds", "flops"}
    # what a training takes is that of short ones that took turns, whatever the machine did during the others
    assert second["costs"] == first["costs"]
    assert gradsamp["joules"] == pytest.approx(second["costs"]["digits"]["gradsamp-4"]["joules"])
    assert "digits: test accuracy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        frontier.main(command)

    script("frontier_page").main([str(path), "--out", str(tmp_path)])
    page = (tmp_path / "README.md").read_text()
    assert "GradSamp, every 4th epoch" in page and (tmp_path / "plots" / "out_digits.svg").exists()


def test_a_training_costs_its_steps_and_what_belongs_to_its_epochs(frontier: ModuleType, script: Script, monkeypatch):
    """Ten seconds of a short training, two of them for its epochs: the whole has the same epochs, and more steps."""
    costs = script("tasks.costs")
    task = script("tasks.sizes").make_task("digits", "short")
    long = dataclasses.replace(task, steps_per_epoch=16)
    monkeypatch.setattr(costs, "make_task", lambda name, size: long)
    monkeypatch.setattr(costs, "warm_up", lambda name, size, way: None)
    seen = []

    def train(task, way, seed, steps, *, evaluate):
        seen.append((way.title, seed))
        slow = {0: 1, 1: 3, 2: 1}[seed]  # a round in which the machine is slow for all
        cpu = slow * (10.0 if way.skips is None else 5.0)
        assert (task.epochs, steps, evaluate) == (long.epochs, 2 * long.epochs, False)
        return {"cpu_seconds": cpu, "cpu_seconds_aside": cpu / 5, "joules": 7 * cpu, "energy_source": "modelled:x"}

    monkeypatch.setattr(costs, "train", train)
    found = costs.costs("digits", "short", ["gradsamp-4"], 3)
    whole = 2 + 8 * 16 / 2
    assert found["dense"]["cpu_seconds"] == pytest.approx(whole)
    assert found["gradsamp-4"]["joules"] == pytest.approx(7 * whole / 2)
    assert found["gradsamp-4"]["joules_to_dense"] == pytest.approx([0.5] * 3)
    assert [title for title, _ in seen[::2]] == ["dense", "GradSamp, every 4th epoch", "dense"]  # in turn


def test_what_trains_as_another_way_is_timed_only(frontier: ModuleType, script: Script, tmp_path: Path) -> None:
    results = script("tasks.results").Results(None, {"tasks": {}, "arms": {}})
    found = frontier.Frontier("digits", "short", ["dense", "dense-compiled"], 1, [0.5, 1.0], [1.0], results)
    assert {run.way for run in found.trainings()} == {"dense"}
    for run in found.trainings():
        results.add({**vars(run), "arm": run.arm, "value": 90.0, "joules": 5.0, "cpu_seconds": 1.0})
    assert {row["way"] for row in found.rows()} == {"dense", "dense-compiled"}
    assert next(row for row in found.rows() if row["way"] == "dense-compiled")["joules"] is None
    figures = {"cpu_seconds": 1.0, "joules": 4.0}
    results.costs["digits"] = {"dense": figures, "dense-compiled": {**figures, "joules": 3.0}}
    compiled = next(row for row in found.rows() if row["way"] == "dense-compiled")
    assert compiled["value"] == 90.0 and compiled["joules_of_dense"] == pytest.approx(0.75)


def test_over_all_tasks(script: Script) -> None:
    """The geometric mean of independent figures: errors add up as squares do."""
    one = {"ratio": 0.5, "low": 0.4, "high": 0.625, "bound": ""}
    two = {"ratio": 2.0, "low": 1.6, "high": 2.5, "bound": "above"}
    found = script("tasks.merit").over_tasks([one, two], [5, 5])
    assert found.ratio == pytest.approx(1) and found.bound == "above"
    # 2.776 and 2.306: Student's t for 4 and for 8 degrees of freedom
    reach = 2.306 * (math.log(1.25) / 2.776) / math.sqrt(2)
    assert math.log(found.high) == pytest.approx(reach, rel=1e-3) and found.low == pytest.approx(1 / found.high)
    rows = [
        {"way": "a", "title": "A", "share": share, "merit": {"dense": {"joules": one | {"verdict": "pays"}}}}
        for share in (0.5, 1.0)
    ]
    lines = "\n".join(script("frontier_page").overview({"x": rows, "y": rows[1:]}, {"x": 5, "y": 5}))
    assert "The least over all tasks: **A**, 0.50" in lines and "A: pays on x and y." in lines and "50%" not in lines


def test_what_a_run_of_all_tasks_says(script: Script) -> None:
    merit = {"dense": {"joules": {"ratio": 0.5, "low": 0.4, "high": 0.6, "bound": ""}}}
    dense = {"way": "dense", "title": "dense", "share": 0.25, "seeds": 3, "merit": {}}
    rows = [dense, dense | {"share": 1.0}, {"way": "a", "title": "A", "share": 1.0, "seeds": 3, "merit": merit}]
    machine = {"cpu": "CPU", "torch": "2"}
    data = {"machine": machine, "date": "today", "size": "short", "seconds": 90.0, "summary": {"x": rows, "y": rows}}
    lines = "\n".join(script("frontier_page").whole_part(Path("all.json"), data))
    assert "took **1.5 minutes**, with 3 seeds and the dense frontiers at 25% and 100% of the steps" in lines
    assert "| A | 0.50 (0.40 to 0.60) | 0.50 (0.40 to 0.60) |" in lines and "| dense |" not in lines


def points(costs, values, noise=0.0, seeds=4):
    generator = torch.Generator().manual_seed(0)
    return [
        {s: (cost, value + noise * torch.randn((), generator=generator).item()) for s in range(seeds)}
        for cost, value in zip(costs, values, strict=True)
    ]


def test_merit_is_the_cost_at_equal_quality(script: Script) -> None:
    merit = script("tasks.merit").merit
    dense = points([25, 50, 100], [90, 94, 96])
    # 94 is what 50 buy; a way that comes as far for 40 costs 0.8.
    found = merit(points([40], [94])[0], dense, higher_is_better=True)
    assert found.ratio == pytest.approx(0.8) and found.low == pytest.approx(found.high) and found.verdict == "pays"
    # between the points: on a line over the logarithm of the cost
    found = merit(points([80], [95])[0], dense, higher_is_better=True)
    assert found.ratio == pytest.approx(80 / math.sqrt(50 * 100)) and found.verdict == "does not pay"
    lower = merit(points([40], [-94])[0], points([25, 50, 100], [-90, -94, -96]), higher_is_better=False)
    assert lower.ratio == pytest.approx(0.8)


def test_beyond_the_frontier_there_are_bounds(script: Script) -> None:
    merit = script("tasks.merit").merit
    dense = points([25, 50, 100], [90, 94, 96])
    above, below = (merit(points([60], [v])[0], dense, higher_is_better=True) for v in (97, 80))
    assert (above.bound, above.ratio, above.verdict) == ("above", pytest.approx(0.6), "pays")
    dearer = merit(points([120], [97])[0], dense, higher_is_better=True)
    assert dearer.verdict == "these seeds cannot tell", "nobody knows what dense training would take to come so far"
    assert (below.bound, below.ratio) == ("below", pytest.approx(60 / 25)) and "worse than" in below.verdict
    cheaper = merit(points([20], [80])[0], dense, higher_is_better=True)
    assert cheaper.verdict == "these seeds cannot tell", "it took less, and is worse"


def test_an_interval_knows_noise(script: Script) -> None:
    merit = script("tasks.merit").merit
    found = merit(points([90], [95.5], 1.0)[0], points([25, 50, 100], [90, 94, 96], 1.0), higher_is_better=True)
    assert found.low < found.ratio < found.high and found.verdict == "these seeds cannot tell"
    one = merit(points([90], [95], seeds=1)[0], points([25, 100], [90, 96], seeds=1), higher_is_better=True)
    assert one.low == 0 and one.high == math.inf and one.to_dict()["high"] is None
    assert merit({}, points([25, 100], [90, 96]), higher_is_better=True) is None


def test_a_dip_of_the_frontier_is_noise(script: Script) -> None:
    merit = script("tasks.merit").merit
    found = merit(points([50], [95])[0], points([25, 50, 100], [95, 94, 96]), higher_is_better=True)
    assert 0.5 <= found.ratio <= 2


@pytest.mark.parametrize("name", ["glyphs", "diffusion", "segmentation"])
def test_drawn_tasks_learn_and_are_the_same_each_time(script: Script, name: str) -> None:
    module = script(f"tasks.{name}")
    small = {"count": 64, "epochs": 1, "widths": (16, 32), "batch": 16, "test": 32}
    task = module.task(**small)
    inputs, targets = next(task.batches(3))
    again = next(task.batches(3))
    assert torch.equal(inputs, again[0]) and torch.equal(targets, again[1])
    assert not torch.equal(inputs, next(task.batches(4))[0])
    torch.manual_seed(0)
    model = task.build()
    optimizer = task.optimizer(model)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = task.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], "one batch can be learned"
    assert math.isfinite(task.evaluate(model.eval()))


def test_every_character_is_drawn_and_none_twice(script: Script) -> None:
    drawing = script("tasks.drawing")
    drawn = drawing.atlas()
    assert drawn.shape[0] == len(set(drawing.CHARACTERS)) >= 60
    assert (drawn.amax((2, 3, 4)) > 0.9).all(), "each font has each character"
    flat = drawn[:, 0].flatten(1)
    assert (torch.cdist(flat, flat) + 1e3 * torch.eye(len(flat))).min() > 1
