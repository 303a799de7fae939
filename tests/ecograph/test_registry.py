from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from torch import nn

import ecograph
from ecograph import registry
from ecograph.passes import SparseBackward


def test_our_passes_are_found_by_name() -> None:
    assert "sparse_backward" in registry.names()
    assert registry.find("sparse_backward") is SparseBackward
    assert registry.find("sparse_backward").name == "sparse_backward"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'sparse'.*sparse_backward"):
        registry.find("sparse")


def test_a_pass_from_its_json_form() -> None:
    made = SparseBackward(0.5, align=8)
    assert registry.from_dict(made.to_dict()) == made
    with pytest.raises(ValueError, match="no pass"):
        registry.from_dict({"name": "slice", "rate": 0.5})


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("third_party", "ecograph.passes:SparseBackward", registry.GROUP)
    monkeypatch.setattr(registry, "_entries", lambda: {"third_party": entry})


@pytest.mark.usefixtures("third_party")
def test_a_third_party_ships_a_pass_by_an_entry_point() -> None:
    assert registry.names() == ["third_party"]
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 64), nn.Linear(64, 2))
    ecograph.optimize(model, passes=["third_party"])
    assert ecograph.explain(model).layers[1].rewritten_by == "sparse_backward"


@pytest.mark.usefixtures("third_party")
def test_a_recipe_says_what_it_goes_without() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 8))
    with pytest.warns(ecograph.NoEffectWarning) as caught:
        ecograph.optimize(model, recipe="balanced")
    assert "'sparse_backward', which is not installed" in str(caught[0].message)


def test_importing_ecograph_loads_no_pass() -> None:
    code = "import sys, ecograph; print([m for m in sys.modules if m.startswith('ecograph.passes')])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
