"""Whose prices decide what pays: of the device at hand, or of the one that a training is planned for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ecograph
from ecograph.cost.devices import Device, find_device, stored
from ecograph.cost.devices.device import Figure
from ecograph.cost.pays import computed_in, planned_for, prices
from ecograph.explain import Report
from ecograph.passes import SliceOut, SparseBackward

PLAIN = replace(
    find_device("generic-cpu"),
    flops={"float32": Figure(1e9, "")},
    bandwidth=Figure(1e15, ""),
    reached=Figure(1.0, ""),
    call=Figure(0.0, ""),
    overhead={},
    swept={},
)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ECOGRAPH_CACHE", str(tmp_path))
    return tmp_path


def known(name: str, **figures: float) -> Device:
    """Keeps a device whose products take time and nothing else does, but for the figures that are given."""
    call = Figure(figures.pop("call", 0.0), "")
    flops = {dtype: Figure(rate, "") for dtype, rate in {"float32": 1e9, **figures}.items()}
    device = replace(PLAIN, name=name, call=call, flops=flops)
    stored.save(device)
    return device


def test_the_machine_as_it_was_calibrated(folder: Path) -> None:
    assert prices().device.name == "generic-cpu"
    stored.save(replace(PLAIN, name=stored.cpu(1)))
    assert prices().device.flops["float32"].value == 1e9
    assert prices() is prices(), "read once"
    stored.save(replace(PLAIN, name=stored.cpu(1), flops={"float32": Figure(2e9, "")}))
    assert prices().device.flops["float32"].value == 2e9
    stored.path_of(stored.cpu(1)).write_text("{}")
    with pytest.warns(UserWarning, match="judged as on generic-cpu.*calibrate again"):
        assert prices().device.name == "generic-cpu"


@pytest.mark.parametrize("type", ["cuda", "mps", "xpu"])
def test_an_accelerator_that_is_not_known_is_one_in_the_middle(type: str) -> None:
    assert prices(type).device.type == "cuda"


def test_a_plan_holds_while_it_is_made(folder: Path) -> None:
    with planned_for("h100", "bf16") as planned:
        assert planned.asked is None
        assert prices("cpu").device.name == prices("cuda").device.name == "h100"
        assert planned.asked is prices().device
        assert computed_in(torch.float32) == torch.bfloat16
        assert computed_in(torch.float64) == torch.float64 and computed_in(torch.int64) == torch.int64
    assert prices().device.name == "generic-cpu" and computed_in(torch.float32) == torch.float32
    with planned_for() as planned:
        assert prices().device is planned.asked and planned.asked.name == "generic-cpu"


def test_an_error_ends_a_plan(folder: Path) -> None:
    with pytest.raises(KeyError), planned_for("h100"):
        raise KeyError
    assert prices().device.name == "generic-cpu"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"device": "h1000"}, "device 'h1000' is not known: .*did you mean h100"),
        ({"amp": "bf8"}, "amp='bf8': give bf16, fp16 or None"),
    ],
)
def test_what_there_is_not(folder: Path, options: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        rewritten(SparseBackward(0.8), **options)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden = nn.Linear(256, 256), nn.Linear(256, 256)
        self.inner, self.last = nn.Linear(256, 256), nn.Linear(256, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.inner(F.relu(self.hidden(F.relu(self.first(x)))))))


def rewritten(pass_: object, **options: Any) -> Report:
    model = ecograph.optimize(Net(), example_inputs=torch.randn(64, 256), passes=[pass_], **options)
    return ecograph.explain(model)


@pytest.mark.parametrize("pass_", [SparseBackward(0.8), SliceOut(0.5)], ids=lambda each: each.name)
@pytest.mark.filterwarnings("ignore::ecograph.NoEffectWarning")
def test_a_model_is_rewritten_for_the_device_it_will_be_trained_on(folder: Path, pass_: object) -> None:
    known(stored.cpu(1), call=1.0)
    known("free-calls")
    for options, some, where in (
        ({}, False, stored.cpu(1)),
        ({"device": "free-calls"}, True, "free-calls"),
        ({"device": stored.cpu(1)}, False, stored.cpu(1)),
    ):
        report = rewritten(pass_, **options)
        assert any(layer.rewritten_by for layer in report.layers) is some, options
        assert where in report.judged_for
        assert f"what pays was decided for {report.judged_for}" in " ".join(str(report).split())
        assert report.to_dict()["judged_for"] == report.judged_for
        assert some or any("does not pay: saves" in layer.reason for layer in report.layers)


@pytest.mark.parametrize("pass_", [SparseBackward(0.8), SliceOut(0.5)], ids=lambda each: each.name)
@pytest.mark.filterwarnings("ignore::ecograph.NoEffectWarning")
def test_a_model_is_rewritten_for_the_precision_it_will_be_trained_in(folder: Path, pass_: object) -> None:
    # A product of 64 x 256 x 256 takes 8 ms in float32, and 8 us in bfloat16; calls take 0.1 ms.
    known("low-precision", call=1e-4, bfloat16=1e12)
    full, low = (rewritten(pass_, device="low-precision", **options) for options in ({}, {"amp": "bf16"}))
    assert any(layer.rewritten_by for layer in full.layers)
    assert not any(layer.rewritten_by for layer in low.layers)
    assert "bfloat16" in low.judged_for and "bfloat16" not in full.judged_for


def test_nothing_is_said_where_it_was_not_asked_what_pays(folder: Path) -> None:
    report = rewritten(SparseBackward(0.8, when="always"))
    assert report.judged_for == "" and report.to_dict()["judged_for"] is None
    assert "what pays" not in str(report)
