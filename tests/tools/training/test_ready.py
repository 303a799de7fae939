"""From a setup to what a loop is called with; and one line where the parts do not fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import ecograph
from ecograph.loop import TrainingLoop
from ecograph.passes import SparseBackward
from ecograph.tools.data.loaders import Batching
from ecograph.tools.errors import UserError
from ecograph.tools.training import Course, Setup, make_ready

OWN = """
import torch
from torch import nn

def batches():
    return [{"x": torch.ones(2, 3), "labels": torch.ones(2)}] * 3

class OwnLoss(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)

    def forward(self, x, labels):
        return {"loss": (super().forward(x).squeeze(1) - labels).square().mean()}

def images():
    return [((torch.ones(2, 3), torch.ones(2, 3)), torch.zeros(2, dtype=torch.int64))] * 3

class Two(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)

    def forward(self, x, y):
        return super().forward(x + y)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ready_own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def ready(loop: TrainingLoop | None = None, **options: Any) -> Any:
    setup = Setup(**{"model": "demo:tiny", "data": "random:1x8x8:10:64", "device": "cpu", **options})
    return make_ready(setup, Course.of(loop or TrainingLoop(2)))


def test_the_parts() -> None:
    options = {"optimizer": "sgd", "optimizer_options": {"lr": 0.5}, "schedule": "cosine", "seed": 7}
    model, optimizer, loss_fn, train, val, schedule = made = tuple(ready(**options))
    assert len(made) == 6 and loss_fn is F.cross_entropy
    assert model.training and len(train) == 2 and len(val) == 1
    assert optimizer.param_groups[0]["initial_lr"] == 0.5 and schedule.T_max == 2
    assert torch.equal(model.stem[0].weight, ready(**options).model.stem[0].weight)
    assert not torch.equal(model.stem[0].weight, ready(**{**options, "seed": 8}).model.stem[0].weight)


def test_the_trial_leaves_no_trace() -> None:
    torch.manual_seed(0)
    expected = torch.nn.Linear(3, 4).weight
    model = ready(TrainingLoop(1, batch="args"), model="ready_own.py:Two", data="ready_own.py:images").model
    assert torch.equal(model.weight, expected)
    norm = ready().model.stem[1]
    assert norm.num_batches_tracked == 0 and norm.running_mean.abs().sum() == 0


def test_passes_rewrite_the_model() -> None:
    made = ready(passes=[SparseBackward(0.5, when="always")], skip=("blocks.0",), channels_last=True)
    rewritten = [layer.name for layer in ecograph.explain(made.model).layers if layer.rewritten_by]
    assert rewritten and not [name for name in rewritten if name.startswith("blocks.0")]
    assert made.model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_with_a_loss_of_its_own() -> None:
    loop = TrainingLoop(2, batch="dict", progress=False)
    made = ready(loop, model="ready_own.py:OwnLoss", data="ready_own.py:batches", optimizer_options={"lr": 0.1})
    assert made.loss_fn is None
    losses = loop.run(*made).column("train_loss")
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "random:3x8x8:10"}, ("demo:tiny", "random:3x8x8:10", "do not fit together", "1 channels")),
        ({"data": "random:1x8x8:20"}, ("do not fit together", "out of bounds")),
        ({"data": "ready_own.py:batches"}, ('batch="dict"',)),
        ({"data": "ready_own.py:images", "model": "ready_own.py:Two"}, ('batch="args"',)),
        ({"loss": "model"}, ('batch="dict"',)),
        ({"device": "cuda:77"}, ("'cuda:77'", "give auto or cpu")),
        ({"device": "abacus"}, ("'abacus'", "give auto or cpu")),
        ({"device": "meta"}, ("'meta'", "give auto or cpu")),
        ({"skip": ("stem",)}, ("skip=['stem']", "no pass")),
        ({"skip": ("stm",), "passes": [SparseBackward()]}, ("stm",)),
        ({"batching": Batching(size=3), "data": "ready_own.py:images"}, ("batch size has no effect",)),
    ],
)
def test_mistakes(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        ready(**options)
    for word in words:
        assert word in str(caught.value)
