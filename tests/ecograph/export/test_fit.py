"""Whole trainings with ONNX Runtime next to those of a TrainingLoop: the same options, the same history."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ecograph
from ecograph import TrainingLoop
from ecograph.errors import NoEffectWarning
from ecograph.export import OrtTrainer, export_onnx_training
from ecograph.passes import Extrapolate, GradSamp, SparseBackward

EPOCHS, LR, DECAY = 7, 0.3, 0.9
SPARSE = SparseBackward(0.75, schedule="linear", when="always")
Exported = tuple[Path, nn.Module]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model with a sparse backward whose rate grows over the epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))

    ecograph.optimize(model, example_inputs=torch.randn(4, 6), passes=[SPARSE])
    path = tmp_path_factory.mktemp("ort") / "exported"
    return export_onnx_training(model, torch.randn(4, 6), optimizer="sgd", path=path), model


@pytest.fixture
def loader() -> DataLoader[Any]:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=16)


@pytest.mark.parametrize(
    ("passes", "skipped"),
    [
        ([], []),
        ([GradSamp(every=3, seed=5)], [2, 5]),
        ([GradSamp(every=3, warmup=1, cooldown=2, granularity="channel", advance_lr=False)], [3]),
        ([GradSamp(every=3, mode="extrapolate")], [2, 5]),
    ],
    ids=["every epoch is trained", "noise", "the learning rate waits", "no noise"],
)
def test_the_history_is_that_of_a_training_loop(
    exported: Exported, loader: DataLoader[Any], passes: list[Any], skipped: list[int]
) -> None:
    path, model = exported
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    loop = TrainingLoop(EPOCHS, passes=[SPARSE, *passes], metric="accuracy", progress=False, lr_step="step")
    theirs = loop.run(model, optimizer, F.cross_entropy, loader, loader, schedule)

    trainer = OrtTrainer(path)
    ours = trainer.fit(
        loader, epochs=EPOCHS, val_loader=loader, passes=passes, metric="accuracy", progress=False,
        lr=lambda step: LR * DECAY**step,
    )  # fmt: skip
    assert [each.epoch for each in ours if each.note == "skipped by GradSamp"] == skipped
    assert len(ours) == len(theirs) == EPOCHS
    for our, their in zip(ours, theirs, strict=True):
        assert (our.epoch, our.note) == (their.epoch, their.note)
        assert (our.train_loss is None) == (their.train_loss is None) == bool(our.note)
        if our.train_loss is not None:
            assert our.train_loss == pytest.approx(their.train_loss, rel=1e-4)
        assert our.val_loss == pytest.approx(their.val_loss, rel=1e-4)
        assert our.values["val_accuracy"] == their.values["val_accuracy"]
    for name, value in trainer.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)
    assert trainer.steps == (EPOCHS - len(skipped)) * len(loader)


def test_passes_that_have_no_place_here(exported: Exported, loader: DataLoader[Any]) -> None:
    trainer = OrtTrainer(exported[0])
    with pytest.raises(ValueError, match="Extrapolate cannot be used with ONNX Runtime"):
        trainer.fit(loader, epochs=2, passes=[Extrapolate(radius=0.1)], progress=False)
    with pytest.warns(NoEffectWarning, match="skips none of the 2 epochs"):
        trainer.fit(loader, epochs=2, passes=[GradSamp()], progress=False)
