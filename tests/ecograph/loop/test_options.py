"""What the options do when the loop runs; each next to a run by hand."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ecograph.loop import Callback, History, NonFiniteLossError, TrainingLoop
from ecograph.loop.history import EpochRecord

compiles = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def data(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(5, 6, generator=generator), torch.randint(3, (5,), generator=generator)) for _ in range(count)]


def fit(loop: TrainingLoop, model: nn.Module | None = None, **change: Any) -> History:
    model = model or net()
    arguments = {"loss_fn": F.cross_entropy, "train_loader": data(), "val_loader": data(2), **change}
    return loop.run(model, SGD(model.parameters(), lr=0.1), **arguments)


def test_ema_is_the_average_that_is_evaluated_and_left() -> None:
    model = net()
    history = fit(TrainingLoop(3, ema=0.8), model)

    plain = net()
    optimizer = SGD(plain.parameters(), lr=0.1)
    average = {name: value.double().clone() for name, value in plain.state_dict().items()}
    first = True
    for _ in range(3):
        for inputs, targets in data():
            optimizer.zero_grad()
            F.cross_entropy(plain(inputs), targets).backward()
            optimizer.step()
            for name, value in plain.state_dict().items():
                # torch's AveragedModel begins with a copy of the weights after the first step
                kept = 0.0 if first else 0.8
                average[name] = kept * average[name] + (1 - kept) * value.double()
            first = False
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6, msg=name)
    averaged = net()
    averaged.load_state_dict(model.state_dict())
    averaged.eval()
    losses = [F.cross_entropy(averaged(inputs), targets).item() for inputs, targets in data(2)]
    assert history[-1].val_loss == pytest.approx(sum(losses) / 2, rel=1e-6)


@pytest.mark.parametrize(("every", "validated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (3, [2, 4]), (9, [4])])
def test_val_every(every: int, validated: list[int]) -> None:
    history = fit(TrainingLoop(5, val_every=every))
    assert [record.epoch for record in history if record.val_loss is not None] == validated


def test_a_plateau_is_looked_for_in_validated_epochs_only() -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=100, threshold_mode="abs")  # never better
    loop = TrainingLoop(6, val_every=2, lr_step="val_loss")
    history = loop.run(model, optimizer, F.cross_entropy, data(), data(2), scheduler)
    assert history.column("lr") == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"stop": "val_loss < 100"}, 1),
        ({"stop": "val_loss < -1"}, 6),
        ({"stop": "train_loss <= 100"}, 1),
        ({"stop": "val_accuracy >= 0", "metric": "accuracy", "val_every": 4}, 4),
    ],
    ids=str,
)
def test_stop(options: dict[str, Any], epochs: int) -> None:
    assert len(fit(TrainingLoop(6, **options))) == epochs


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("val_accuracy >= 0.9", r"there is no val_accuracy; there are train_loss, val_loss; .*metric=\"accuracy\""),
        ("loss == 3", 'must compare a value with a number, such as "val_loss <= 0.1"'),
        ("val_loss < small", "must compare a value with a number"),
        ("val_loss < 1.2.3", "must compare a value with a number"),
        (0.5, "must compare a value with a number"),
    ],
)
def test_a_stop_that_cannot_be(stop: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingLoop(3, stop=stop)


@compiles
def test_compile_leaves_keys_and_results() -> None:
    plain, compiled = net(), net()
    keys = list(compiled.state_dict())
    expected = fit(TrainingLoop(2), plain)
    found = fit(TrainingLoop(2, compile=True), compiled)
    assert list(compiled.state_dict()) == keys
    assert found.column("train_loss") == pytest.approx(expected.column("train_loss"), rel=1e-5)
    assert compiled._compiled_call_impl is not None


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_log_to_a_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"history{ending}"
    path.parent.mkdir()
    path.write_text("what was there before\n")
    history = fit(TrainingLoop(3, log=path, metric="accuracy", val_every=2))
    lines = path.read_text().splitlines()
    if ending == ".csv":
        rows: list[Any] = [
            {name: value if name == "energy_source" else float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(lines)
        ]
    else:
        rows = [json.loads(line) for line in lines]
    assert rows == [record.to_dict() for record in history]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_log_to_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = fit(TrainingLoop(3, log=tmp_path / "board"))
    board = accumulator.EventAccumulator(str(tmp_path / "board")).Reload()
    found = [(event.step, event.value) for event in board.Scalars("val_loss")]
    assert found == [(record.epoch + 1, pytest.approx(record.val_loss)) for record in history]


@pytest.mark.parametrize("log", [3, "history.txt", ["a.csv", "b.parquet"], [3]])
def test_a_log_that_cannot_be(log: Any) -> None:
    with pytest.raises(ValueError, match="log="):
        TrainingLoop(3, log=log)


class Told(Callback):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_epoch_start(self, epoch: int, model: nn.Module) -> None:
        self.calls.append(("start", epoch))
        assert model.training

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        self.calls.append(("step", epoch))
        assert loss.ndim == 0

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        self.calls.append(("end", epoch, record.val_loss is not None))


def test_callbacks_are_told_what_happens() -> None:
    told = Told()
    fit(TrainingLoop(2, callbacks=[told, Callback()], accumulate=3))
    epochs = [[("start", epoch), ("step", epoch), ("step", epoch), ("end", epoch, True)] for epoch in range(2)]
    assert told.calls == epochs[0] + epochs[1]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([Told], r"callbacks has the class Told: give an instance, Told\(\)"),
        ([print], "derive its class from ecograph.loop.Callback"),
        (3, "callbacks=3 is not a list"),
    ],
)
def test_callbacks_that_are_none(callbacks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingLoop(3, callbacks=callbacks)


# A loss that is nan


class Half(nn.Module):
    """Returns infinity for one of its inputs, without a layer of its own doing so."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x - x)


def broken(model: nn.Sequential, where: str) -> nn.Module:
    if where == "a weight":
        model[3].weight.data[0, 0] = float("inf")
    elif where == "a layer":
        model.insert(2, Half())
    return model


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("a weight", r"first layer whose output is not finite is '3' \(Linear\), whose weight is not finite since an"),
        ("a layer", r"first layer whose output is not finite is '2' \(Half\): lower the learning rate"),
        ("the data", "the inputs of the batch are not finite: look for nan in the data"),
        ("the loss", "the output of every layer is finite, so it is the loss function"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"amp": "bf16"}, {"compile": True}, {"accumulate": 2}], ids=str)
@compiles
def test_the_first_layer_that_is_not_finite_is_named(where: str, message: str, options: dict[str, Any]) -> None:
    model = broken(net(), where)
    batches = data()
    if where == "the data":
        batches[2][0][0, 0] = float("nan")
    before = copy.deepcopy(model.state_dict())

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * (float("inf") if where == "the loss" else 1.0)

    with pytest.raises(NonFiniteLossError, match=rf"became (nan|inf) in epoch 1.*{message}"):
        fit(TrainingLoop(2, **options), model, loss_fn=loss_fn, train_loader=batches)
    if where != "the data":
        for name, value in model.named_parameters():
            assert torch.equal(value, before[name]), "nothing was learned from it"
    assert not any(module._forward_hooks for module in model.modules())


def test_what_it_looks_at_leaves_no_trace_in_buffers() -> None:
    from ecograph.loop.finite import source_of_nan

    model = net()
    before = copy.deepcopy(model.state_dict())
    source_of_nan(model, torch.randn(5, 6))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


ONES = torch.ones(2, 3)


@pytest.mark.parametrize("inputs", [(ONES, ONES), {"a": ONES, "b": ONES}], ids=["args", "kwargs"])
def test_models_of_several_inputs(inputs: Any) -> None:
    from ecograph.loop.finite import source_of_nan

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halved = Half()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.halved(a + b)

    assert "'halved' (Half)" in source_of_nan(Sum(), inputs)


# Bad input


class Liar(list[Any]):
    """A loader that says another length than it has."""

    def __init__(self, batches: list[Any], said: int) -> None:
        super().__init__(batches)
        self.said = said

    def __len__(self) -> int:
        return self.said


@pytest.mark.parametrize("said", [3, 5])
def test_a_loader_whose_length_is_another(said: int) -> None:
    with pytest.raises(ValueError, match=f"a loader has {said} batches by its len.*, and gave 4"):
        fit(TrainingLoop(2), train_loader=Liar(data(), said))


def test_a_loss_that_is_no_tensor() -> None:
    with pytest.raises(ValueError, match="the loss is 0.5 where a tensor is needed: what does loss_fn return"):
        fit(TrainingLoop(2), loss_fn=lambda outputs, targets: 0.5)


def test_a_metric_that_is_no_number() -> None:
    with pytest.raises(ValueError, match="a loss or metric is 'good' where a number is needed"):
        fit(TrainingLoop(2, metric=lambda outputs, targets: "good"))
