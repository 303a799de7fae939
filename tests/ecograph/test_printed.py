"""What shows as tables does so by print, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ecograph
from ecograph.cost.estimate import plan_run


def shown() -> dict[str, Any]:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(16, 8)
    step = ecograph.estimate(model, x, optimizer=torch.optim.AdamW)
    passes = [ecograph.passes.SparseBackward(when="always", skip_first=False, min_channels=8)]
    report = ecograph.explain(ecograph.optimize(model, example_inputs=x, passes=passes))
    return {"step": step, "run": plan_run(step, epochs=2, batches_per_epoch=10), "report": report}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("step", ("a training step on", "forward", "optimizer", "modelled")),
        ("run", ("The whole training of Sequential", "epochs trained", "CO2")),
        ("report", ("FLOPs per training step", "sparse_backward")),
    ],
)
def test_as_text(name: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    what = shown()[name]
    monkeypatch.setenv("COLUMNS", "40")
    text = str(what)
    assert all(word in text for word in words) and repr(what) == text
    assert max(map(len, text.splitlines())) <= 100 and not text.endswith("\n")
    monkeypatch.setenv("COLUMNS", "200")
    assert len(str(what).splitlines()) <= len(text.splitlines())
