"""What ``inspect`` prints and writes beside its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NET = ("inspect", "models.py:Net", "--input", "512x32", "--when", "always")


def test_cost_as_a_table(main: Any) -> None:
    code, out, err = main(*NET, "--cost", "--device", "h100", "--amp", "bf16", "--optimizer", "sgd")
    assert (code, err) == (0, "")
    assert "H100" in out and "middle" in out and "█" in out and "optimizer" in out and "modelled" in out
    assert max(map(len, out.splitlines())) <= 100


def test_cost_in_a_narrow_terminal(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = main(*NET, "--cost", "--diff")
    assert code == 0 and "middle" in out


def test_a_device_asks_for_costs(main: Any) -> None:
    code, out, err = main(*NET, "--device", "h100", "--json")
    assert (code, err) == (0, "")
    cost = json.loads(out)["cost"]
    assert cost["device"]["name"] == "h100"
    assert set(cost["before"]) == {"forward", "backward", "optimizer"}
    assert [each["name"] for each in cost["passes"]] == ["sparse_backward"]
    assert {layer["name"] for layer in cost["layers"]} >= {"first", "middle", "last"}


def test_the_optimizer_of_a_gpu_steps_all_parameters_together(main: Any) -> None:
    def calls(device: str) -> float:
        cost = json.loads(main(*NET, "--device", device, "--json")[1])["cost"]
        return float(cost["before"]["optimizer"]["calls"])

    assert calls("h100") < 12 < calls("generic-cpu")


def test_without_costs_there_are_none(main: Any) -> None:
    assert "cost" not in json.loads(main(*NET, "--json")[1])
    _, out, _ = main(*NET, "--json", "--device", "h100", "--optimizer", "none")
    assert "optimizer" not in json.loads(out)["cost"]["before"]


def test_diff(main: Any) -> None:
    code, out, err = main(*NET, "--diff")
    assert (code, err) == (0, "")
    added = [line for line in out.splitlines() if line.startswith("+ ")]
    assert len(added) == 1 and "sparse_linear(" in added[0] and added[0].endswith("# sparse_backward")
    assert "  # middle" in out
    (graph,) = json.loads(main(*NET, "--diff", "--json")[1])["diff"]
    assert [(node["layer"], node["removed_by"]) for node in graph["nodes"] if node["removed_by"]] == [
        ("middle", "sparse_backward")
    ]


def test_drawings(main: Any) -> None:
    code, out, err = main(*NET, "--dot")
    assert (code, err) == (0, "") and out.startswith('digraph "Net" {') and "middle" in out
    code, out, _ = main(*NET, "--mermaid")
    assert code == 0 and out.startswith("flowchart TD") and "--> outputs" in out


def test_a_page(main: Any, tmp_path: Path) -> None:
    code, out, err = main(*NET, "--html", "report.html", "--device", "h100")
    assert code == 0 and "H100" in out
    assert err.startswith("note: wrote report.html") and err.count("\n") == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '"type":"sparse_linear"' in text and "NVIDIA H100" in text and "models.py:" in text


def test_a_page_without_inputs(main: Any, tmp_path: Path) -> None:
    code, _, _ = main("inspect", "models.py:Net", "--html", "report.html")
    assert code == 0 and (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "h1000"], ("--device", "h1000", "h100")),
        (["--amp", "bf17"], ("--amp 'bf17'", "bf16")),
        (["--optimizer", "lion"], ("--optimizer 'lion'", "adamw")),
        (["--dot", "--json"], ("--dot", "--json", "leave one out")),
        (["--mermaid", "--diff"], ("--mermaid", "leave --diff out")),
        (["--html", "nowhere/report.html"], ("--html", "no folder nowhere")),
        (["--html", "."], ("--html", "is a folder")),
    ],
)
def test_mistakes(main: Any, options: list[str], words: tuple[str, ...]) -> None:
    code, out, err = main(*NET, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(word in err for word in words), err


def test_costs_need_shapes(main: Any) -> None:
    code, _, err = main("inspect", "models.py:Net", "--cost")
    assert code == 2 and "--input" in err


@pytest.mark.parametrize(("device", "pays"), [("generic-cpu", True), ("h100", False)])
def test_what_pays_is_decided_for_the_device_of_the_estimate(main: Any, device: str, pays: bool) -> None:
    """A layer of 64 x 2048 x 2048 takes long on a core, and no longer than a few calls on an H100."""
    Path("wide.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(3)))\n"
    )
    code, out, err = main("inspect", "wide.py:build", "--input", "64x2048", "--device", device, "--diff", "--json")
    assert code == 0 and ("no effect" in err) is not pays
    data = json.loads(out)
    assert bool(data["layers"][1]["rewritten_by"]) is pays
    assert data["judged_for"].endswith(f"(modelled, {device}, from datasheets)")
    assert any(node["added_by"] for graph in data["diff"] for node in graph["nodes"]) is pays
