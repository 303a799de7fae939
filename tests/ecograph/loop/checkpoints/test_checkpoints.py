"""Checkpoints as a user of the loop meets them: resuming, refusing, stopping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ecograph
from ecograph.loop import Callback, CheckpointError, History, Interrupted, NonFiniteLossError, TrainingLoop
from ecograph.passes import SparseBackward


def data(samples: int = 24) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(samples, 6, generator=generator), torch.randint(0, 3, (samples,), generator=generator)
    return DataLoader(TensorDataset(x, y), 4, shuffle=True)


def net(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3))


def fit(loop: TrainingLoop, model: nn.Module | None = None, *, resume: bool = False, **change: Any) -> History:
    model = model or net()
    optimizer = change.pop("optimizer", torch.optim.SGD)(model.parameters(), lr=0.1)
    arguments = {"loss_fn": nn.CrossEntropyLoss(), "train_loader": data(), **change}
    return loop.run(model, optimizer, **arguments, resume=resume)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class StopAt(Callback):
    """Does something after a step, once."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self.left = step
        self.act = act

    def on_step_end(self, epoch: int, model: nn.Module, loss: torch.Tensor) -> None:
        self.left -= 1
        if self.left == 0:
            self.act()


class PowerCutError(Exception):
    pass


def cut_power() -> None:
    raise PowerCutError


def test_one_is_written_after_each_epoch_and_every_so_many_steps(tmp_path: Path) -> None:
    fit(TrainingLoop(3, checkpoint=tmp_path / "a"))
    assert sorted(files(tmp_path / "a")) == ["epoch-0002-step-000000.pt", "epoch-0003-step-000000.pt"]
    with pytest.raises(PowerCutError):
        fit(TrainingLoop(3, checkpoint=tmp_path / "b", checkpoint_every=2, callbacks=[StopAt(11, cut_power)]))
    assert sorted(files(tmp_path / "b")) == ["epoch-0001-step-000002.pt", "epoch-0001-step-000004.pt"]


def test_a_folder_of_another_run_is_not_touched(tmp_path: Path) -> None:
    fit(TrainingLoop(2, checkpoint=tmp_path))
    before = files(tmp_path)
    model = net()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="has checkpoints of a run already: resume=True goes on with it"):
        fit(TrainingLoop(2, checkpoint=tmp_path), model)
    assert files(tmp_path) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_resuming_what_is_complete_returns_its_history(tmp_path: Path) -> None:
    first, second = net(), net()
    history = fit(TrainingLoop(2, checkpoint=tmp_path), first)
    before = files(tmp_path)
    torch.manual_seed(77)
    again = fit(TrainingLoop(2, checkpoint=tmp_path), second, resume=True)
    assert again.to_dict() == history.to_dict()
    assert files(tmp_path) == before
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


def test_resuming_where_there_is_nothing_begins(tmp_path: Path) -> None:
    assert len(fit(TrainingLoop(2, checkpoint=tmp_path / "new"), resume=True)) == 2


def test_a_run_that_reached_its_target_is_complete(tmp_path: Path) -> None:
    loop = TrainingLoop(9, checkpoint=tmp_path, stop="val_loss < 100")
    assert len(fit(loop, val_loader=data())) == 1
    assert len(fit(loop, val_loader=data(), resume=True)) == 1


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "option": ({"clip": 1.0}, {}, "clip=None, and now it is clip=1.0"),
    "epochs": ({"epochs": 5}, {}, "epochs=4, and now it is epochs=5"),
    "width": ({}, {"model": net(17)}, r"another model: '0.weight' is float32\[17, 6\] here and float32\[16, 6\] there"),
    "layers": ({}, {"model": nn.Sequential(nn.Linear(6, 3))}, "'0.weight' is"),
    "kind of model": ({}, {"model": nn.Linear(6, 3)}, "the model is a Linear here and was Sequential there"),
    "optimizer": ({}, {"optimizer": torch.optim.Adam}, "optimizer is Adam here and was SGD there"),
    "data": ({}, {"train_loader": data(40)}, "had 6 batches per epoch and has 10"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_and_nothing_is_changed(name: str, tmp_path: Path) -> None:
    options, change, message = OTHERS[name]
    with pytest.raises(PowerCutError):
        fit(TrainingLoop(4, checkpoint=tmp_path, callbacks=[StopAt(8, cut_power)]))
    before = files(tmp_path)
    model = change.pop("model", None) or net()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    loop = TrainingLoop(**{"epochs": 4, "checkpoint": tmp_path, "callbacks": [StopAt(99, cut_power)], **options})
    with pytest.raises(CheckpointError, match=message):
        fit(loop, model, resume=True, **change)
    assert files(tmp_path) == before
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_a_model_with_other_passes_is_refused(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    sparse = [SparseBackward(0.5, when="always", min_channels=1, skip_first=False)]
    fit(TrainingLoop(1, checkpoint=tmp_path), ecograph.optimize(net(), example_inputs=x, passes=sparse))
    with pytest.raises(CheckpointError, match="was optimized with .*drop=0.5.*now with none"):
        fit(TrainingLoop(1, checkpoint=tmp_path), resume=True)


def test_a_damaged_checkpoint_falls_back(tmp_path: Path) -> None:
    model = net()
    loop = TrainingLoop(3, checkpoint=tmp_path)
    fit(loop, model)
    last = tmp_path / "epoch-0003-step-000000.pt"
    last.write_bytes(last.read_bytes()[:1000])
    again = net()
    with pytest.warns(UserWarning, match="epoch-0003.*damaged.*going on from epoch-0002"):
        assert len(fit(loop, again, resume=True)) == 3
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_a_loss_that_is_nan_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    loss = nn.CrossEntropyLoss()
    calls = iter(range(100))

    def sometimes(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(outputs, targets) * (float("nan") if next(calls) == 9 else 1.0)

    with pytest.raises(NonFiniteLossError, match="became nan in epoch 2.*loss function"):
        fit(TrainingLoop(3, checkpoint=tmp_path, checkpoint_every=2), loss_fn=sometimes)
    assert sorted(files(tmp_path)) == ["epoch-0001-step-000000.pt", "epoch-0001-step-000002.pt"]
    assert len(fit(TrainingLoop(3, checkpoint=tmp_path, checkpoint_every=2), resume=True)) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_writes(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = net()
    fit(TrainingLoop(3, checkpoint=tmp_path / "whole", callbacks=[StopAt(99, cut_power)]), expected)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopAt(8, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as caught:
        fit(TrainingLoop(3, checkpoint=tmp_path / "a", callbacks=[stop]))
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.path == tmp_path / "a" / "epoch-0001-step-000002.pt"
    assert f"stopped by {number.name} after step 2 of epoch 2" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    model = net()
    fit(TrainingLoop(3, checkpoint=tmp_path / "a", callbacks=[StopAt(99, cut_power)]), model, resume=True)
    assert all(map(torch.equal, model.state_dict().values(), expected.state_dict().values()))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    stop = StopAt(2, lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(TrainingLoop(3, checkpoint=tmp_path, callbacks=[stop]))
    assert not isinstance(caught.value, Interrupted)
    assert files(tmp_path) == {}


def test_ctrl_c_in_a_process_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time, torch
            from ecograph.loop import Callback, TrainingLoop
            from torch import nn
            torch.set_num_threads(1)
            model = nn.Linear(6, 3)
            batches = [(torch.randn(4, 6), torch.randint(0, 3, (4,)))] * 10
            class Slow(Callback):
                def on_step_end(self, epoch, model, loss):
                    print("step", flush=True)
                    time.sleep(0.05)
            loop = TrainingLoop(50, checkpoint=sys.argv[1], callbacks=[Slow()])
            loop.run(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), batches)
            """
        )
    )
    command = [sys.executable, str(script), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "stopped by SIGINT after step" in errors and "resume=True goes on there" in errors
    assert len(files(tmp_path / "run")) == 1


class Secretive(nn.Module):
    """A module that keeps something in its state that only code can make again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    def get_extra_state(self) -> Any:
        return Path("x")

    def set_extra_state(self, state: Any) -> None: ...


def test_what_could_not_be_read_back_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read back.*of model \(Secretive\), optimizer \(SGD\)"):
        fit(TrainingLoop(3, checkpoint=tmp_path), Secretive())
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint_every": 3}, "checkpoint_every needs a folder: give checkpoint="),
        ({"checkpoint": "a", "checkpoint_every": 0}, "checkpoint_every=0 must be a whole number"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingLoop(3, **options)


def test_resume_without_checkpoints() -> None:
    with pytest.raises(ValueError, match="resume=True needs checkpoints"):
        fit(TrainingLoop(3), resume=True)
