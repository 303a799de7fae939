from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from ecograph import passes
from ecograph.advice import Setting

SPARSE = passes.SparseBackward(drop=0.5, when="always")


@pytest.mark.parametrize(
    ("setting", "numerics", "title"),
    [
        (Setting(), "exact", "plain"),
        (Setting(channels_last=True, threads=1), "exact", "channels_last + 1 thread"),
        (Setting(compile=True, fused=True), "exact", "fused optimizer + torch.compile"),
        (Setting(amp="bf16"), "near-exact", "bf16"),
        (Setting(tf32=True), "near-exact", "tf32"),
        (Setting(passes=(SPARSE,)), "approximate", "sparse backward"),
        (Setting(amp="bf16", batch=64), "approximate", "bf16 + batch 64"),
    ],
)
def test_says_what_it_does_to_numbers(setting, numerics, title):
    assert (setting.numerics, setting.title) == (numerics, title)
    json.dumps(setting.to_dict())


def test_its_code_switches_it_on():
    """The lines run as they are printed, and leave what they say."""
    setting = Setting(channels_last=True, amp="bf16", fused=True, threads=1, passes=(SPARSE,))
    code = "\n".join(setting.code(optimizer="torch.optim.SGD")).replace(", ...", ", lr=0.1")
    import ecograph

    names = {
        "torch": torch,
        "ecograph": ecograph,
        "model": nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 10)),
        "inputs": torch.randn(2, 3, 8, 8),
        "targets": torch.zeros(2, dtype=torch.long),
        "loss_fn": nn.functional.cross_entropy,
    }
    exec(code, names)
    model, loss = names["model"], names["loss"]
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert "SparseBackward(drop=0.5, when='always')" in code and type(model[1]) is not nn.Conv2d
    assert names["optimizer"].defaults["fused"]
    loss.backward()


def test_plain_training_needs_no_code():
    assert Setting().code() == []
