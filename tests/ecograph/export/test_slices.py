"""SliceOut in ONNX Runtime next to PyTorch: the same slices in every step, the same losses, weights and statistics."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import export_models as models
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ecograph
from ecograph.export import OrtTrainer, export_onnx_training
from ecograph.export.slices import STARTS
from ecograph.passes import SliceOut, SparseBackward
from ecograph.record import records
from ecograph.tools.onnx_graph import read_training_graph

SLICES: dict[str, Any] = {"min_width": 16, "when": "always", "seed": 3}
SPARSE = SparseBackward(0.5, schedule="constant", when="always", min_channels=2)
Exported = tuple[Path, nn.Module]


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 8, 8), torch.randint(5, (size,))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    # The large eps: without it, gradients that are all rounding make steps as large as any.
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, weight_decay=0.1)


def windows(model: nn.Module) -> dict[str, tuple[int, int]]:
    """The units that each group of a model in PyTorch has taken in its last step."""
    slices = [group.slice for group in records(model)[0].groups if group.slice is not None]
    return {each.name: (each.window[0], sum(each.window)) for each in slices if each.window is not None}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model on slices in every second step, sparse on them."""
    torch.manual_seed(0)
    model = models.Mixer()
    ecograph.optimize(
        model, example_inputs=batch()[:1], passes=[SliceOut(0.5, schedule="alternate", **SLICES), SPARSE]
    )
    path = tmp_path_factory.mktemp("ort") / "exported"
    return export_onnx_training(model, batch()[:1], optimizer=adamw(model), path=path), model


def assert_trains_alike(trainer: OrtTrainer, model: nn.Module, steps: int, scheduled: bool = False) -> None:
    optimizer = adamw(model.train())
    plan: dict[str, Any] = {"epochs": steps // 2, "steps_per_epoch": 2, "tail": 1}
    schedulers = [ecograph.Scheduler(each, **plan) for each in (model, trainer)] if scheduled else []
    seen = set()
    for step in range(steps):
        x, y = batch(6 - step % 3)  # batch sizes vary
        ours = trainer.train_step(x, targets=y)
        optimizer.zero_grad()
        theirs = F.cross_entropy(model(x), y)
        theirs.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert trainer.slices() == windows(model)
        seen.add(tuple(trainer.slices().values()))
        assert ours == pytest.approx(theirs.item(), rel=1e-5)
        for scheduler in schedulers:
            scheduler.step()
    assert len(seen) > 3 and () in seen
    state = model.state_dict()
    assert trainer.state_dict().keys() == state.keys()
    for name, value in trainer.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-4, msg=name)
    x, y = batch()
    back = trainer.to_torch(ecograph.restore(copy.deepcopy(model))).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(trainer.eval_step(x, targets=y)[1]), back(x), rtol=0, atol=1e-5)


def test_trains_as_pytorch_does(exported: Exported) -> None:
    path, model = exported
    names = {each.name: (each.units, each.width) for each in OrtTrainer(path).manifest.slices}
    assert names == {"body": (32, 16), "qkv": (4, 2), "up": (48, 24)}
    assert_trains_alike(OrtTrainer(path), copy.deepcopy(model), steps=8)


def test_a_scheduler_ends_with_the_full_network(exported: Exported) -> None:
    path, model = exported
    assert_trains_alike(OrtTrainer(path), copy.deepcopy(model), steps=12, scheduled=True)


def test_goes_on_from_a_checkpoint_bit_for_bit(exported: Exported, tmp_path: Path) -> None:
    batches = [batch() for _ in range(3)]
    whole = OrtTrainer(exported[0])
    for x, y in batches:
        whole.train_step(x, targets=y)
    file = whole.save(tmp_path / "kept")
    after = [(whole.train_step(x, targets=y), whole.slices()) for x, y in batches]
    again = OrtTrainer(exported[0], checkpoint=file)
    assert [(again.train_step(x, targets=y), again.slices()) for x, y in batches] == after


def test_rates_of_which_there_is_no_graph(exported: Exported) -> None:
    trainer = OrtTrainer(exported[0])
    trainer.rates[0].set(0.25)
    with pytest.raises(ValueError, match="slices at the rate 0.25 were not exported: set 0.5 or 0"):
        trainer.slices()


def test_the_graphs_have_what_inspect_shows(exported: Exported) -> None:
    path, _ = exported
    sliced, full = (read_training_graph(path / f"{name}.onnx") for name in ("training_model", "full_training_model"))
    assert [each.name for each in sliced.slices] == ["body", "qkv", "up"] and not full.slices
    assert f"{STARTS}: 3" in sliced.inputs and not any(STARTS in each for each in full.inputs)
    channels = [{layer.name: layer.channels for layer in each.layers} for each in (sliced, full)]
    assert [each["up"] for each in channels] == [24, 48] and [each["down"] for each in channels] == [16, 16]
    assert sliced.operators["SliceGrad"] >= 12 and "SliceGrad" not in full.operators
    for name in ("training_model", "full_training_model"):
        onnx.checker.check_model(onnx.load(path / f"{name}.onnx"))


def test_each_unit_scaled_by_how_often_it_is_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 5))
    passes = [SliceOut(0.5, normalization="probability", **SLICES)]
    ecograph.optimize(model, example_inputs=batch()[:1], passes=passes)
    path = export_onnx_training(model, batch()[:1], optimizer=adamw(model), path=tmp_path / "exported")
    assert_trains_alike(OrtTrainer(path), model, steps=12, scheduled=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"update": "slice"}, "sliceout: update='slice' cannot be exported: give update='autograd'"),
        ({"schedule": "cosine"}, "sliceout: schedule='cosine' takes many widths"),
    ],
)
def test_options_that_are_not_exported(options: dict[str, Any], says: str, no_partial_files: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 5))
    ecograph.optimize(model, example_inputs=batch()[:1], passes=[SliceOut(0.5, **SLICES, **options)])
    with pytest.raises(ValueError, match=says):
        export_onnx_training(model, batch()[:1], path=no_partial_files)
