from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import ecograph

Script = Callable[[str], ModuleType]

KEYS = {
    "model", "dtype", "format", "mode", "whole", "pass", "rate", "groups", "layers",
    "dense_ms", "sliced_ms", "small_ms", "ratio", "ideal", "times_ideal", "speedup", "small_ratio", "small_flops_ratio",
    "times_small", "dense_peak_mb", "peak_memory_ratio", "small_peak_memory_ratio",
    "dense_activations_mb", "activation_ratio", "small_activation_ratio",
}  # fmt: skip


@pytest.fixture
def tiny(script: Script, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model like the others, small enough to be timed in no time."""
    models = script("models")

    def build(share: float = 1.0) -> nn.Module:
        hidden = models.narrowed(64, share)
        return nn.Sequential(nn.Linear(16, hidden), nn.ReLU(), nn.Linear(hidden, 16))

    spec = models.ModelSpec(build, lambda: torch.randn(32, 16), images=False, whole=True)
    monkeypatch.setitem(models.MODELS, "tiny", spec)
    return "tiny"


def test_a_row_for_each_rate_with_figures_that_agree(script: Script, tiny: str, pass_name: str) -> None:
    sliceout = script("sliceout")
    rows = sliceout.rows(sliceout.Setting(tiny), (0.25, 0.5), rounds=2, pass_name=pass_name)
    assert [row["rate"] for row in rows] == [0.25, 0.5]
    for row in rows:
        assert set(row) == KEYS
        assert row["layers"] == 2
        assert row["ratio"] == pytest.approx(row["sliced_ms"] / row["dense_ms"])
        assert row["times_ideal"] == pytest.approx(row["ratio"] / row["ideal"])
        assert row["times_small"] == pytest.approx(row["sliced_ms"] / row["small_ms"])
        assert row["small_flops_ratio"] == pytest.approx(1 - row["rate"])
        assert row["ideal"] < 1
        if pass_name == "sliceout":  # the ideal and the small network are the same widths, found in two ways
            assert row["ideal"] == pytest.approx(row["small_flops_ratio"], abs=0.01)
            assert row["groups"] == 1


def test_the_command_writes_what_it_prints(
    script: Script, tiny: str, pass_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    sliceout = script("sliceout")
    monkeypatch.setattr(sliceout, "NAMES", (tiny,))
    sliceout.main(["--quick", "--rounds", "1", "--pass", pass_name, "--json", str(tmp_path / "out.json")])
    data = json.loads((tmp_path / "out.json").read_text())
    assert {"machine", "rounds", "models"} == set(data)
    assert [row["rate"] for row in data["models"]] == [0.5]
    printed = capsys.readouterr().out
    assert "x small" in printed
    assert "tiny (float32, default, eager) at rate 0.5" in printed


def test_full_runs_every_way_that_makes_a_difference(script: Script) -> None:
    sliceout = script("sliceout")
    assert sliceout.settings(["lm", "wrn-16-8"], full=False) == [sliceout.Setting("lm"), sliceout.Setting("wrn-16-8")]
    full = sliceout.settings(["lm", "wrn-16-8"], full=True)
    assert len(full) == len(set(full)) == 4 + 8  # dtype and mode; for images the memory format too


def test_the_small_network_is_narrower_inside_only(script: Script) -> None:
    models = script("models")
    for name, spec in models.MODELS.items():
        inputs = spec.inputs().to("meta")
        with torch.device("meta"):
            full, small = spec.build(), spec.build(share=0.5)
        assert full(inputs).shape == small(inputs).shape, name
        shapes = [(a.shape, b.shape) for a, b in zip(full.parameters(), small.parameters(), strict=True)]
        assert any(a != b for a, b in shapes), name
        for a, b in shapes:
            assert all(n in (m, m // 2) for m, n in zip(a, b, strict=True)), name


@pytest.mark.parametrize(
    ("name", "rate"), [("wrn-16-8", 0.25), ("convnext", 0.25), ("convnext", 0.75), ("resnet18", 0.75)]
)
def test_the_small_network_has_the_widths_that_are_sliced(script: Script, name: str, rate: float) -> None:
    kind = pytest.importorskip("ecograph.passes.sliceout").SliceOut
    sliceout, spec = script("sliceout"), script("models").MODELS[name]
    inputs = spec.inputs().to("meta")
    with torch.device("meta"):
        full, small = spec.build(), spec.build(share=1 - rate)
    report = ecograph.explain(ecograph.optimize(full, example_inputs=inputs, passes=[kind(rate=rate)]))
    assert report.after.total == pytest.approx(sliceout.plain_flops(small, inputs), rel=1e-6)


@pytest.mark.parametrize(
    ("width", "share", "multiple", "expected"),
    [(64, 0.5, 8, 32), (6, 0.75, 1, 5), (6, 0.25, 1, 2), (16, 0.01, 8, 8), (4, 1.0, 8, 4)],
)
def test_narrowed(script: Script, width: int, share: float, multiple: int, expected: int) -> None:
    assert script("models").narrowed(width, share, multiple) == expected


def test_compiled_models_of_one_class_do_not_share_code(script: Script, tiny: str) -> None:
    steps, spec = script("steps"), script("models").MODELS[tiny]
    functions = [steps._function_of_its_own(spec.build()) for _ in range(2)]
    assert functions[0].__code__ is not functions[1].__code__
    assert functions[0].__code__.co_name != functions[1].__code__.co_name
    assert functions[0](spec.inputs()).shape == (32, 16)
