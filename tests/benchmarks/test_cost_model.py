from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

Script = Callable[[str], ModuleType]


def time_row(dtype: str, error: float) -> dict[str, Any]:
    return {
        "model": "small", "batch": 8, "dtype": dtype, "optimizer": "sgd", "measured": [1.0, 2.0, 1.0],
        "predicted": [1.0, 2.0, 1.0 + 4 * error], "error": error,
    }  # fmt: skip


def peak_row(measured: int, predicted: int) -> dict[str, Any]:
    return {
        "model": "small", "batch": 8, "dtype": "float32", "peak_measured": measured, "peak_predicted": predicted
    }  # fmt: skip


def saving(measured: float, predicted: float) -> dict[str, Any]:
    return {"model": "small", "pass": "sliceout", "measured": measured, "predicted": predicted}


def analysed(model: str, operations: int, seconds: float) -> dict[str, Any]:
    taken = {"seconds": seconds, "cpu_seconds": seconds, "bytes": 5 * 10**8, "bytes_before": 4 * 10**8}
    return {"model": model, "parameters": 10, "operations": operations, **taken}


FOUND = {
    "flops": [
        {"model": "right", "counted": [4, 8], "predicted": [4, 8], "uncounted": []},
        {"model": "wrong", "counted": [4, 8], "predicted": [4, 9], "uncounted": []},
        {"model": "unseen", "counted": [4, 8], "predicted": [4, 8], "uncounted": ["mine.scan"]},
        {"model": "right too", "counted": [1, 2], "predicted": [1, 2], "uncounted": []},
    ],
    "analysis": [analysed("gpt-2", 100, 0.1), analysed("gpt-4", 400, 1.6), analysed("llama-70b", 9000, 4.5)],
    "times": [time_row("float32", 0.1), time_row("float32", -0.3), time_row("bfloat16", -0.2)],
    "memory": [peak_row(100, 110), peak_row(200, 190), peak_row(100, 100)],
    "unseen": [time_row("float32", 0.5)],
    "savings": [saving(0.20, 0.24), saving(0.20, 0.14), saving(0.10, 0.11), saving(0.30, 0.27)],
}  # fmt: skip


def test_the_summary(script: Script) -> None:
    found = script("cost_model").summary(FOUND)
    assert found["FLOPs"] == {"models": 4, "exact": 0.5}
    assert found["analysis, llama-70b"] == {"seconds": 4.5, "GB": 0.5}
    assert found["analysis, GPTs"] == {"exponent of the operations": pytest.approx(2.0)}
    assert found["step time, all"] == {"median": 0.2, "worst": 0.3}
    assert found["step time, float32"] == {"median": pytest.approx(0.2), "worst": 0.3}
    assert found["step time, bfloat16"] == {"median": 0.2, "worst": 0.2}
    assert found["step time, forward"] == found["step time, backward"] == {"median": 0.0, "worst": 0.0}
    assert found["step time, optimizer"] == {"median": pytest.approx(0.8), "worst": pytest.approx(1.2)}
    assert found["step time, unseen models, all"] == {"median": 0.5, "worst": 0.5}
    assert found["step time, unseen models, optimizer"]["worst"] == pytest.approx(2.0)
    assert found["peak memory"] == {"median": pytest.approx(0.05), "worst": pytest.approx(0.1)}
    assert found["saving"]["within 5 points"] == 0.75
    assert found["saving"]["worst"] == pytest.approx(0.06)


def test_what_is_not_exact_is_shown(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    cost_model = script("cost_model")
    cost_model.show(cost_model.Console(width=120), FOUND)
    printed = capsys.readouterr().out
    assert "wrong" in printed
    assert "mine.scan" in printed
    assert "right" not in printed
    assert "FLOPs: models 4, exact 50.0%" in printed


def test_flops_of_a_model_that_capture_is_tested_with(script: Script) -> None:
    zoo_flops = script("zoo_flops")
    index = [entry.name for entry in zoo_flops.ZOO].index("torchvision:squeezenet1_1")
    row = zoo_flops.counted(index)
    assert row["model"] == "torchvision:squeezenet1_1"
    assert row["counted"][0] > 10**7
    assert zoo_flops.exact(row)


def test_it_runs(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With a small model, and its processes where they can be seen."""
    cost_model, steps = script("cost_model"), script("step_predictions")
    small = script("real").Real(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)),
        lambda batch: torch.randn(batch, 3, 8, 8),
    )
    for name in ("resnet18", "squeezenet"):
        monkeypatch.setitem(steps.MODELS, name, small)
    monkeypatch.setattr(cost_model, "elsewhere", lambda run, todo, threads=None: map(run, todo))
    monkeypatch.setattr(steps, "each_apart", lambda run, todo, imported: map(run, todo))
    monkeypatch.setattr(steps, "ENOUGH", 0.1)
    cost_model.main(["--quick", "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["flops"]) == 1
    assert [row["model"] for row in written["analysis"]] == ["gpt-2", "gpt-4"]
    assert [(row["model"], row["dtype"]) for row in written["times"]] == [
        ("resnet18", "float32"),
        ("resnet18", "bfloat16"),
    ]
    assert [(row["model"], row["batch"]) for row in written["unseen"]] == [("squeezenet", 1)] * 2
    assert [(row["model"], row["dtype"]) for row in written["memory"]] == [
        ("resnet18", "float32"),
        ("resnet18", "bfloat16"),
    ]
    assert all(row["peak_measured"] > 0 for row in written["memory"])
    assert {row["pass"] for row in written["savings"]} == {"sparse_backward", "sliceout"}
    assert all(sum(row["measured"]) > 0 and sum(row["predicted"]) > 0 for row in written["times"])
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_some_models_are_timed_alone(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cost_model = script("cost_model")
    timed: list[str] = []

    def time(name: str, *rest: Any) -> list[dict[str, Any]]:
        timed.append(name)
        return []

    monkeypatch.setattr(cost_model, "step_times", time)
    monkeypatch.setattr(cost_model, "savings", lambda *rest: [])
    cost_model.main(["--quick", "--only", "bert", "--json", str(tmp_path / "out.json")])
    assert timed == ["bert"]
    assert not json.loads((tmp_path / "out.json").read_text())["flops"]
