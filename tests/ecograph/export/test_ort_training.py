"""Exported models next to PyTorch: the same losses, the same weights, the same statistics."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
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
from ecograph.export.sites import settle
from ecograph.passes import SparseBackward
from ecograph.record import records

EVERYTHING: dict[str, Any] = {"when": "always", "skip_first": False, "skip_last": False, "min_channels": 2}


def token_loss(output: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), targets.flatten())


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 8, 8), torch.randint(5, (6,))


def text() -> tuple[Tensor, Tensor]:
    return torch.randint(12, (3, 7)), torch.randint(12, (3, 7))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Any, str, Any, dict[str, Any]]] = {
    "conv, every second step sparse": (
        models.ConvNet, images, F.cross_entropy, "cross_entropy", lambda p: torch.optim.SGD(p, lr=0.1),
        {"drop": 0.6, "schedule": "alternate"},
    ),
    "conv, gradients of weights only": (
        models.ConvNet, images, F.cross_entropy, "cross_entropy", lambda p: torch.optim.SGD(p, lr=0.1),
        {"drop": 0.6, "schedule": "constant", "grads": ("weight",), "align": 4},
    ),
    "tokens": (
        models.Tokens, text, token_loss, "token_cross_entropy",
        lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        {"drop": 0.5, "schedule": "constant"},
    ),
    "tokens, gradients of inputs only": (
        models.Tokens, text, token_loss, "token_cross_entropy", lambda p: torch.optim.SGD(p, lr=0.1),
        {"drop": 0.5, "schedule": "constant", "grads": ("input",)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_trains_as_pytorch_does(case: str, tmp_path: Path) -> None:
    build, batch, loss_fn, loss, make_optimizer, options = CASES[case]
    model = build()
    x, y = batch()
    ecograph.optimize(model, example_inputs=(x,), passes=[SparseBackward(**{**EVERYTHING, **options})])
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad])
    path = export_onnx_training(model, (x,), loss=loss, optimizer=optimizer, path=tmp_path / "exported")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"the export changed {name}"

    trainer = OrtTrainer(path)
    model.train()
    for step in range(5):
        x, y = (t[: 6 - step] for t in batch())  # batch sizes vary
        ours = trainer.train_step(x, targets=y)
        optimizer.zero_grad()
        theirs = loss_fn(model(x), y)
        theirs.backward()
        optimizer.step()
        assert ours == pytest.approx(theirs.item(), rel=1e-5)
    state = model.state_dict()
    assert trainer.state_dict().keys() == state.keys()
    for name, value in trainer.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-5, msg=name)

    back = trainer.to_torch(build()).eval()
    loss_in_eval, output = trainer.eval_step(x, targets=y)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(output), back(x), rtol=0, atol=1e-5)
        assert loss_in_eval == pytest.approx(loss_fn(back(x), y).item(), rel=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A sparse model whose layers keep random channels, without bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.0), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    options = SparseBackward(0.75, schedule="linear", select="random", unbiased=True, **EVERYTHING)
    ecograph.optimize(model, example_inputs=torch.randn(4, 8), passes=[options])
    path = tmp_path_factory.mktemp("ort") / "exported"
    return export_onnx_training(model, torch.randn(4, 8), optimizer="sgd", path=path), model


def test_files_are_valid_and_open_elsewhere(exported: tuple[Path, nn.Module]) -> None:
    path, _ = exported
    names = {"training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint", "ecograph.json"}
    assert {each.name for each in path.iterdir()} == names
    for name in ("training_model.onnx", "eval_model.onnx"):
        model = onnx.load(path / name)
        assert model.ir_version <= 10
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model)
    manifest = json.loads((path / "ecograph.json").read_text(encoding="utf-8"))
    assert [site["channels"] for site in manifest["sites"]] == [32, 32, 3]
    entry = next(p for p in onnx.load(path / "training_model.onnx").metadata_props if p.key == "ecograph")
    assert json.loads(entry.value) == manifest


def test_random_channels_are_kept_and_scaled(exported: tuple[Path, nn.Module]) -> None:
    path, model = exported
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    trainer = OrtTrainer(path, seed=3)
    trainer.lr = 1.0
    (rate,) = trainer.rates
    rate.scheduled = True
    rate.set(0.75)
    assert trainer.kept() == {"0": 8, "3": 8, "5": 1}
    plain = ecograph.restore(copy.deepcopy(model)).train()
    F.cross_entropy(plain(x), y).backward()
    before = trainer.state_dict()
    trainer.train_step(x, targets=y)
    # The last layer's gradient depends on no other layer's choice: one row of three, times three.
    moved = before["5.weight"] - trainer.state_dict()["5.weight"]
    (row,) = moved.abs().sum(1).nonzero()
    last = plain.get_parameter("5.weight").grad
    assert last is not None
    torch.testing.assert_close(moved[row], 3 * last[row], rtol=1e-4, atol=1e-6)
    assert int((before["0.weight"] != trainer.state_dict()["0.weight"]).any(1).sum()) <= 8


def test_the_scheduler_sets_the_rates(exported: tuple[Path, nn.Module]) -> None:
    trainer = OrtTrainer(exported[0])
    scheduler = ecograph.Scheduler(trainer, epochs=4, steps_per_epoch=1)
    seen = []
    for _ in range(4):
        seen.append(trainer.kept()["0"])
        scheduler.step()
    assert seen == [32, 24, 16, 8]


def test_goes_on_from_a_checkpoint_bit_for_bit(exported: tuple[Path, nn.Module], tmp_path: Path) -> None:
    x, y = torch.randn(16, 8), torch.randint(3, (16,))
    whole = OrtTrainer(exported[0], seed=1)
    for _ in range(3):
        whole.train_step(x, targets=y)
    whole.lr = 0.5
    file = whole.save(tmp_path / "kept")
    losses = [whole.train_step(x, targets=y) for _ in range(3)]
    again = OrtTrainer(exported[0], checkpoint=file)
    assert (again.steps, again.lr) == (3, 0.5)
    assert [again.train_step(x, targets=y) for _ in range(3)] == losses
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_loads_the_weights_of_a_model(exported: tuple[Path, nn.Module]) -> None:
    trainer = OrtTrainer(exported[0])
    other = copy.deepcopy(exported[1])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    trainer.load_state_dict(other.state_dict())
    assert torch.equal(trainer.state_dict()["3.weight"], other.get_parameter("3.weight"))
    with pytest.raises(ValueError, match="the state has no 0.weight"):
        trainer.load_state_dict({})
    with pytest.raises(ValueError, match=r"0.weight is \(1, 1\), and was \(32, 8\)"):
        trainer.load_state_dict({**other.state_dict(), "0.weight": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match=r"Sequential has no 0\.weight"):
        trainer.to_torch(nn.Sequential(nn.ReLU(), nn.Linear(1, 1)))


x8, y3 = torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("inputs", "targets", "says"),
    [
        ((), y3, "0 inputs are given, and the model takes 1: input"),
        ((x8,), None, "targets are missing"),
        ((x8.double(),), y3, "input is float64, and was float32"),
        ((torch.zeros(4, 9),), y3, "input is 4 x 9, and must be any x 8"),
        ((torch.zeros(3, 8),), y3, r"different batch sizes, \[3, 4\]"),
        ((x8[:0],), y3[:0], "input is 0 x 8: leave out batches without samples"),
        ((x8,), y3 + 3, "label 3 is out of range: there are 3 classes"),
        ((x8,), y3 - 1, "label -1 is out of range"),
    ],
)
def test_inputs_that_do_not_fit(exported: tuple[Path, nn.Module], inputs: Any, targets: Any, says: str) -> None:
    trainer = OrtTrainer(exported[0])
    with pytest.raises(ValueError, match=says):
        trainer.train_step(*inputs, targets=targets)
    trainer.train_step(x8, targets=torch.full_like(y3, -100).index_fill(0, torch.tensor([0]), 1))  # ignored labels


def test_folders_that_hold_no_export(exported: tuple[Path, nn.Module], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no export of ecograph"):
        OrtTrainer(tmp_path)
    with pytest.raises(ValueError, match="is no checkpoint"):
        OrtTrainer(exported[0], checkpoint=tmp_path / "missing")
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken"):
        OrtTrainer(exported[0], checkpoint=tmp_path / "broken")


class Softmaxed(nn.Module):
    """An operator without a gradient, in a module with a name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.sums = nn.ModuleDict({"running": Cumulative()})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sums["running"](self.layer(x))
        return y


class Cumulative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class Sorted(nn.Module):
    """An operator that the exporter does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return torch.linalg.eigvals(y[:, :, None] * y[:, None, :]).real


class Counts(nn.Module):
    """A buffer that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        y: Tensor = self.layer(x) + self.seen
        return y


class CountsSamples(nn.Module):
    """The batch size, as a number of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.view(len(x), 2, 2).flatten(1))
        return y


four = torch.randn(3, 4)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (Softmaxed, {}, "CumSum in sums.running has no gradient in ONNX Runtime"),
        (Sorted, {}, "Sorted cannot be exported"),
        (Counts, {}, "changes the buffer seen"),
        (CountsSamples, {}, r"batches of 3 alone, .* len\(x\) .* x\.shape\[0\]"),
        (lambda: nn.Linear(4, 4).double(), {}, "weight is torch.float64"),
        (lambda: nn.Linear(4, 4).requires_grad_(False), {}, "has no parameter that is trained"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=None)), {}, "1: momentum=None"),
        (lambda: nn.Linear(4, 4), {"loss": "model"}, "not a scalar"),
        (lambda: nn.Linear(4, 4), {"loss": lambda output, targets: output.mean()}, "give example_targets="),
    ],
)
def test_what_cannot_be_exported(make: Any, options: Any, says: str, no_partial_files: Path) -> None:
    with pytest.raises(ValueError, match=says):
        export_onnx_training(make(), (four,), path=no_partial_files, **options)


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_as_large_as_that_of_the_trial(size: int, no_partial_files: Path) -> None:
    with pytest.raises(ValueError, match="batches of 2 alone"):
        export_onnx_training(CountsSamples(), (four[:size],), path=no_partial_files)


def test_an_example_without_samples(no_partial_files: Path) -> None:
    with pytest.raises(ValueError, match="example_inputs holds a tensor without elements"):
        export_onnx_training(nn.Linear(4, 4), (four[:0],), path=no_partial_files)


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="exists: give a new folder"):
        export_onnx_training(model, (four,), path=tmp_path)
    with pytest.raises(ValueError, match="cannot be written: No such file"):
        export_onnx_training(model, (four,), path=tmp_path / "no" / "folder")


def test_layers_that_wait_for_a_batch_decide() -> None:
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 4))
    ecograph.optimize(model)
    before = copy.deepcopy(model.state_dict())
    layers = {site.name: site.layer for site in records(model)[0].sites if site.layer is not None}
    assert layers["2"].dense_because is None
    settle(model, (torch.randn(512, 4),), {})
    assert layers["2"].dense_because == ""
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, no_partial_files: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime.training.api", None)
    with pytest.raises(ImportError, match="onnxruntime is installed without training"):
        export_onnx_training(nn.Linear(4, 4), (four,), path=no_partial_files)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match='pip install "ecograph'):
        export_onnx_training(nn.Linear(4, 4), (four,), path=no_partial_files)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "onnxscript")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ImportError, match="needs Linux and Python 3.10 to 3.12"):
        export_onnx_training(nn.Linear(4, 4), (four,), path=no_partial_files)


def test_torch_is_left_as_it_is() -> None:
    """ONNX Runtime puts its own ``checkpoint`` into torch when it is imported."""
    assert any(name.startswith("onnxruntime.training.ortmodule") for name in sys.modules)
    assert torch.utils.checkpoint.checkpoint.__module__ == "torch.utils.checkpoint"
