"""Skipped epochs in a generated loop: what its text says, and what it does."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import ecograph
from ecograph import TrainingLoop
from ecograph.passes import GradSamp, SparseBackward
from ecograph.record import records

BATCHES = 4


class Counted(Dataset[tuple[Tensor, Tensor]]):
    """A data set that knows how often a sample was read."""

    def __init__(self, samples: int = 30) -> None:
        generator = torch.Generator().manual_seed(2)
        self.inputs = torch.randn(samples, 6, generator=generator)
        self.targets = self.inputs[:, :3].argmax(1)
        self.reads = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.inputs[index], self.targets[index]


class CountedLoader(DataLoader[Any]):
    """A loader that knows how often it was begun, which is when workers start."""

    begun = 0

    def __iter__(self) -> Any:
        self.begun += 1
        return super().__iter__()


def loader(**options: Any) -> CountedLoader:
    return CountedLoader(Counted(), 8, **({"shuffle": True, "generator": torch.Generator().manual_seed(3)} | options))


def new(lr: float = 0.1) -> tuple[nn.Module, SGD]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return model, SGD(model.parameters(), lr=lr, momentum=0.9)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0] | states[1])


# --- the text -----------------------------------------------------------------------------------------

BEFORE = """
    # In skipped epochs the weights move by noise like their last change.
    gradsamp = EpochSampler(GradSamp(every=4), epochs=epochs)
"""

BRANCH = """
            if gradsamp.on_epoch_start(model, epoch):
                # Skipped: no data is read.
                history.note("skipped by GradSamp")
                progress.skip(epoch)
            else:
                for inputs, targets in pairs(train_loader, device):
                    optimizer.zero_grad(set_to_none=True)
"""

SKIPPED: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "plain": ({}, [GradSamp()], ""),
    "a learning rate by the step": (
        {"lr_step": "step", "accumulate": 4},
        [GradSamp()],
        """
        if lr_scheduler is not None:
            for _ in range(steps_per_epoch):
                lr_scheduler.step()
        """,
    ),
    "a learning rate by the step, that waits": ({"lr_step": "step"}, [GradSamp(advance_lr=False)], ""),
    "rates after": ({}, [GradSamp(), SparseBackward()], "rates.skip_epoch()"),
    "rates before": ({}, [SparseBackward(), GradSamp()], "rates.skip_epoch()"),
}


@pytest.fixture(scope="module")
def plain_text() -> str:
    return TrainingLoop(30, passes=[GradSamp(every=4)]).source


def test_the_text(plain_text: str) -> None:
    assert BEFORE in plain_text and BRANCH in plain_text
    assert "gradsamp: approximate; GradSamp, arXiv 2406.07332" in plain_text
    assert plain_text.count("from ecograph.passes import GradSamp\n") == 1
    assert "\n            if lr_scheduler is not None:\n                lr_scheduler.step()\n" in plain_text


@pytest.mark.parametrize("name", SKIPPED)
def test_the_text_of_a_skipped_epoch(name: str) -> None:
    options, passes, more = SKIPPED[name]
    source = TrainingLoop(30, passes=passes, progress=False, **options).source
    branch = source.split("            # Skipped: no data is read.\n")[1].split("        else:\n")[0]
    lines = [line.strip() for line in branch.splitlines()]
    assert lines == ['history.note("skipped by GradSamp")', *(line.strip() for line in more.strip().splitlines())]
    assert ("    steps_per_epoch = steps_in(train_loader, accumulate=4)\n" in source) is ("accumulate" in options)


@pytest.mark.parametrize("lr_step", ["epoch", "val_loss"])
def test_the_text_of_a_learning_rate_that_waits(lr_step: Any) -> None:
    def statement(gradsamp: GradSamp) -> str:
        source = TrainingLoop(30, passes=[gradsamp], lr_step=lr_step, progress=False).source
        assert source.count("lr_scheduler.step(") == 1
        return source.split("        if lr_scheduler is not None")[1].splitlines()[0]

    assert statement(GradSamp(advance_lr=False)) == f"{statement(GradSamp())[:-1]} and trained:"


@pytest.mark.parametrize(
    ("mode", "words"),
    [("gaussian", "move by noise"), ("extrapolate", "repeat their last change"), ("none", "stay as they are")],
)
def test_the_text_says_what_the_mode_does(mode: Any, words: str) -> None:
    assert f"# In skipped epochs the weights {words}" in TrainingLoop(9, passes=[GradSamp(mode=mode)]).source


def test_every_text_reads_as_a_person_would_have_written_it(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    number = 0
    for lr_step in ("epoch", "step", "val_loss"):
        for advance_lr in (True, False):
            for passes in ([], [SparseBackward()]):
                gradsamp = GradSamp(probability=0.25, granularity="channel", advance_lr=advance_lr, cooldown=2)
                options: dict[str, Any] = {"lr_step": lr_step, "metric": "accuracy", "amp": "fp16", "accumulate": 2}
                for chosen in ([*passes, gradsamp], [gradsamp, *passes]):
                    number += 1
                    loop = TrainingLoop(30, passes=chosen, annotate=number % 2 == 0, **options)
                    (tmp_path / f"loop_{number}.py").write_text(loop.source)
                    body = loop.source.split('"""', 2)[2]
                    assert max(map(len, body.splitlines())) <= 88
    rules = ["--select", "E,F,I,B,N,SIM,UP,D", "--ignore", "E501", "--config", 'lint.pydocstyle.convention = "google"']
    for check in (["check", *rules], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_annotate_signs_it_once_where_it_begins() -> None:
    source = TrainingLoop(30, passes=[GradSamp()], annotate=True, lr_step="step").source
    assert "# gradsamp: In skipped epochs" in source
    branch = source.split("if gradsamp.on_epoch_start(model, epoch):")[1].split("else:")[0]
    assert "# gradsamp" not in branch


def test_a_plan_without_a_skip_is_told_where_the_loop_is_made() -> None:
    with pytest.warns(ecograph.NoEffectWarning, match="skips none of the 3 epochs") as caught:
        TrainingLoop(3, passes=[GradSamp(every=4)])
    assert caught[0].filename == __file__


# --- what it does -------------------------------------------------------------------------------------


def test_a_skipped_epoch_reads_no_training_data() -> None:
    model, optimizer = new()
    train, val = loader(num_workers=1), loader()
    loop = TrainingLoop(6, passes=[GradSamp(every=3)], metric="accuracy")
    history = loop.run(model, optimizer, F.cross_entropy, train, val)
    assert train.begun == 4 and val.begun == 6
    assert history.column("note") == [None, None, "skipped by GradSamp"] * 2
    for name in ("train_loss", "train_accuracy"):
        assert [value is None for value in history.column(name)] == [False, False, True] * 2
    for name in ("val_loss", "val_accuracy"):
        assert None not in history.column(name)


def test_no_sample_is_read_in_a_skipped_epoch() -> None:
    model, optimizer = new()
    train = loader()
    TrainingLoop(8, passes=[GradSamp(every=4)]).run(model, optimizer, F.cross_entropy, train)
    data: Any = train.dataset
    assert data.reads == 6 * 30


def by_hand(mode: str, epochs: int, every: int) -> nn.Module:
    """Trains with a loop in which the skipped epochs are written out in float64."""
    model, optimizer = new()
    train = loader()
    starts: list[list[Tensor]] = []
    for epoch in range(epochs):
        starts.append([parameter.detach().double() for parameter in model.parameters()])
        if epoch % every == every - 1:
            if mode == "extrapolate":
                with torch.no_grad():
                    for parameter, now, before in zip(model.parameters(), starts[-1], starts[-2], strict=True):
                        parameter.copy_(now + (now - before))
            continue
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize("mode", ["extrapolate", "none"])
def test_equals_a_loop_written_by_hand(mode: Any) -> None:
    model, optimizer = new()
    loop = TrainingLoop(8, passes=[GradSamp(every=4, mode=mode)])
    loop.run(model, optimizer, F.cross_entropy, loader())
    expected = by_hand(mode, 8, 4)
    for tensor, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "model", "element"])
def test_equals_the_callback_in_a_loop_of_ones_own(granularity: Any) -> None:
    gradsamp = GradSamp(every=3, granularity=granularity, seed=4)
    model, optimizer = new()
    TrainingLoop(7, passes=[gradsamp]).run(model, optimizer, F.cross_entropy, loader())
    expected, optimizer = new()
    train = loader()
    for _ in range(7):
        if gradsamp.on_epoch_start(expected):
            continue
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(expected(x), y).backward()
            optimizer.step()
    assert same(model, expected)


@pytest.mark.parametrize("advance", [True, False])
@pytest.mark.parametrize("lr_step", ["epoch", "step"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_learning_rates_go_on_or_wait(advance: bool, lr_step: Any, accumulate: int) -> None:
    model, optimizer = new(lr=1.0)
    halving = LambdaLR(optimizer, lambda count: 0.5**count)
    loop = TrainingLoop(6, passes=[GradSamp(every=3, advance_lr=advance)], lr_step=lr_step, accumulate=accumulate)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.1)
    history = loop.run(model, optimizer, F.cross_entropy, loader(), None, halving)
    epochs = range(6) if advance else [0, 1, 2, 2, 3, 4]  # counted so far, at the start of each
    if lr_step == "epoch":
        expected = [0.5**count for count in epochs]
    else:  # at the end of an epoch
        steps = {1: 4, 3: 2}[accumulate]
        after = range(1, 7) if advance else [1, 2, 2, 3, 4, 4]
        expected = [0.5 ** (steps * count) for count in after]
    assert history.column("lr") == pytest.approx(expected)


@pytest.mark.parametrize("advance", [True, False])
def test_the_validation_loss_of_a_skipped_epoch_counts_if_the_schedule_goes_on(advance: bool) -> None:
    model, optimizer = new()
    plateau = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, factor=0.1)
    loop = TrainingLoop(4, passes=[GradSamp(every=3, advance_lr=advance)], lr_step="val_loss")
    history = loop.run(model, optimizer, F.cross_entropy, loader(), loader(), plateau)  # type: ignore[arg-type]
    # No loss is good enough for that threshold: each that is counted lowers the rate, of the next epoch.
    expected = [0.1, 0.01, 0.001, 0.0001] if advance else [0.1, 0.01, 0.001, 0.001]
    assert history.column("lr") == pytest.approx(expected)


def test_a_schedule_that_waits_waits_for_validations_too() -> None:
    model, optimizer = new()
    plateau = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, factor=0.1)
    loop = TrainingLoop(6, passes=[GradSamp(every=4, advance_lr=False)], lr_step="val_loss", val_every=2)
    history = loop.run(model, optimizer, F.cross_entropy, loader(), loader(), plateau)  # type: ignore[arg-type]
    # Validated in epochs 1, 3 and 5, counted from 0, and epoch 3 is skipped.
    assert history.column("lr") == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


@pytest.mark.parametrize("first", ["rates", "gradsamp"])
def test_the_rates_of_passes_stay_in_step_with_the_epochs(first: str) -> None:
    sparse = SparseBackward(0.5, schedule="linear", when="always", min_channels=1)
    gradsamp = GradSamp(every=3)
    passes = [sparse, gradsamp] if first == "rates" else [gradsamp, sparse]
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    ecograph.optimize(model, example_inputs=torch.randn(8, 6), passes=[sparse])
    rates: list[float] = []
    model.register_forward_hook(lambda *_: rates.append(records(model)[0].rates[0].now))
    loop = TrainingLoop(6, passes=passes)
    loop.run(model, SGD(model.parameters(), lr=0.1), F.cross_entropy, loader())
    # From 0 to 0.5 over six epochs; epochs 2 and 5 are skipped.
    expected = [rate for rate in (0.0, 0.1, 0.3, 0.4) for _ in range(BATCHES)]
    assert rates == pytest.approx(expected)
    assert loop.source.count("rates.skip_epoch()") == 1


def test_a_scheduler_skips_an_epoch() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3))
    passes = [SparseBackward(0.5, schedule="linear", when="always", min_channels=1)]
    ecograph.optimize(model, example_inputs=torch.randn(8, 6), passes=passes)
    schedulers = [ecograph.Scheduler(model, epochs=5, steps_per_epoch=7) for _ in range(2)]
    schedulers[0].skip_epoch()
    for _ in range(7):
        schedulers[1].step()
    assert schedulers[0].state_dict() == schedulers[1].state_dict()
    assert schedulers[0].last_step == 7


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_with_every_other_option(amp: Any) -> None:
    model, optimizer = new()
    loop = TrainingLoop(
        6,
        passes=[GradSamp(every=3, snapshot="cpu")],
        amp=amp,
        clip=1.0,
        accumulate=2,
        metric="accuracy",
        lr_step="step",
        ema=0.9,
        val_every=2,
    )
    schedule = LambdaLR(optimizer, lambda count: 1 / (1 + count))
    history = loop.run(model, optimizer, F.cross_entropy, loader(), loader(), schedule)
    assert history.column("note") == [None, None, "skipped by GradSamp"] * 2
    assert schedule.last_epoch == 6 * 2
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data = Counted()
        return iter(DataLoader(TensorDataset(data.inputs, data.targets), 8))


def test_a_loader_without_a_length() -> None:
    model, optimizer = new()
    stream: DataLoader[Any] = DataLoader(Stream(), batch_size=None)
    history = TrainingLoop(3, passes=[GradSamp(every=3)]).run(model, optimizer, F.cross_entropy, stream)
    assert history[2].note
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="a stream without a length"):  # before anything is trained
        TrainingLoop(3, passes=[GradSamp(every=3)], lr_step="step").run(model, optimizer, F.cross_entropy, stream)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- stopped and resumed --------------------------------------------------------------------------------


class StopError(Exception):
    pass


@pytest.mark.parametrize("batches", [4, 6, 8, 9, 12])  # trained in epochs 0, 1, 3, 4, ... of 4 batches each
def test_stopped_and_resumed_it_is_the_training_that_went_on(batches: int, tmp_path: Path) -> None:
    gradsamp = GradSamp(every=3, granularity="element")
    whole, optimizer = new()
    expected = TrainingLoop(6, passes=[gradsamp]).run(
        whole, optimizer, F.cross_entropy, loader(), loader(shuffle=False)
    )

    loop = TrainingLoop(6, passes=[gradsamp], checkpoint=tmp_path / "run", checkpoint_every=1)
    left = iter(range(batches))

    def until(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.requires_grad and next(left, None) is None:
            raise StopError
        return F.cross_entropy(outputs, targets)

    model, optimizer = new()
    with pytest.raises(StopError):
        loop.run(model, optimizer, until, loader(), loader(shuffle=False))
    torch.manual_seed(99)
    model, optimizer = new()
    history = loop.run(model, optimizer, F.cross_entropy, loader(), loader(shuffle=False), resume=True)
    assert same(model, whole)
    for name in ("train_loss", "val_loss", "note"):
        assert history.column(name) == expected.column(name)
