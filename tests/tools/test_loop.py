from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ecograph
from ecograph import registry
from ecograph.loop import TrainingLoop
from ecograph.passes import Extrapolate, GradSamp, SliceOut, SparseBackward

OPTIONS = {
    "": TrainingLoop(30),
    "--epochs 3 --amp bf16": TrainingLoop(3, amp="bf16"),
    "--clip 1 --accumulate 4": TrainingLoop(30, clip=1.0, accumulate=4),
    "--metric accuracy --lr-step step": TrainingLoop(30, metric="accuracy", lr_step="step"),
    "--batch dict --no-progress": TrainingLoop(30, batch="dict", progress=False),
    "--annotate --pass sparse_backward": TrainingLoop(30, annotate=True, passes=[SparseBackward()]),
    "--pass sparse_backward:drop=0.5,schedule=bar,skip_last=false": TrainingLoop(
        30, passes=[SparseBackward(drop=0.5, schedule="bar", skip_last=False)]
    ),
    "--pass sliceout:rate=0.25,update=slice --pass sparse_backward": TrainingLoop(
        30, passes=[SliceOut(0.25, update="slice"), SparseBackward()]
    ),
    "--gradsamp every=5 --extrapolation radius=0.1 --amp bf16": TrainingLoop(
        30, passes=[Extrapolate(0.1), GradSamp(5)], amp="bf16"
    ),
    "--sparse-backward drop=0.5,when=always --pass gradsamp": TrainingLoop(
        30, passes=[GradSamp(), SparseBackward(0.5, when="always")]
    ),
    "--compile --ema 0.99 --val-every 3 --stop val_loss<0.1": TrainingLoop(
        30, compile=True, ema=0.99, val_every=3, stop="val_loss<0.1"
    ),
    "--checkpoint some/where --checkpoint-every 50": TrainingLoop(30, checkpoint="some/where", checkpoint_every=50),
    "--log h.csv": TrainingLoop(30, log="h.csv"),
    "--log h.csv --log board --distributed fsdp": TrainingLoop(30, log=["h.csv", "board"], distributed="fsdp"),
}


def test_there_is_an_option_for_every_one_of_the_loop_s(main: Any) -> None:
    """But for callbacks, which are objects."""
    _, out, _ = main("loop", "--help")
    for each in dataclasses.fields(TrainingLoop):
        if each.init and each.name not in ("passes", "callbacks"):
            assert f"--{each.name.replace('_', '-')}"[:16] in out


def test_every_pass_says_in_the_help_what_it_takes(main: Any) -> None:
    _, out, _ = main("loop", "--help")
    for name in registry.names():
        assert f"--{name.replace('_', '-')} " in out
        assert registry.find(name).__name__ in out
    assert "granularity" in out and "max_scale" in out


@pytest.mark.parametrize("options", OPTIONS)
def test_prints_the_source(main: Any, options: str) -> None:
    assert main("loop", *options.split()) == (0, OPTIONS[options].source, "")


def test_writes_a_file(main: Any, tmp_path: Path) -> None:
    code, out, err = main("loop", "-o", "loop.py")
    assert (code, out, err) == (0, "", "note: wrote loop.py\n")
    assert (tmp_path / "loop.py").read_text(encoding="utf-8") == TrainingLoop(30).source


def test_in_a_process_of_its_own(cli: Any) -> None:
    done = cli("loop", "--epochs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    compile(done.stdout, "loop", "exec")


def test_two_passes_share_one_scheduler_and_train() -> None:
    passes = [SliceOut(0.5, schedule="alternate", when="always"), SparseBackward(0.8, when="always", min_channels=1)]
    loop = TrainingLoop(4, passes=passes, progress=False)
    assert loop.source.count("Scheduler(") == 1
    assert loop.source.count("rates.step()") == 1
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    ecograph.optimize(model, example_inputs=torch.randn(8, 6), passes=passes)
    inputs = torch.randn(32, 6)
    targets = inputs[:, :3].argmax(1)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=10)  # the last batch is smaller
    widths: list[int] = []
    model[0].register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    history = loop.run(model, torch.optim.AdamW(model.parameters(), lr=0.01), F.cross_entropy, loader)
    assert widths == [64] * 4 + [32] * 4 + [64] * 4 + [32] * 4
    losses = history.column("train_loss")
    assert losses[-1] < losses[0]
