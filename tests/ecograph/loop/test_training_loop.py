"""The loop that runs equals a loop written by hand, bit for bit; and its text says what was asked for."""

import ast
import copy
import linecache
import math
import pickle
import random
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ecograph.loop import Callback, NonFiniteLossError, Program, TrainingLoop
from ecograph.passes import Extrapolate, GradSamp, SliceOut, SparseBackward

EPOCHS = 3
Loop = Callable[..., Any]


def make() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(1)
    layers = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    model = nn.Sequential(*layers)
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9)


def data(samples: int = 37) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    return TensorDataset(
        torch.randn(samples, 6, generator=generator), torch.randint(3, (samples,), generator=generator)
    )


def loaders(samples: int = 37) -> tuple[DataLoader[Any], DataLoader[Any]]:
    shuffled = torch.Generator().manual_seed(3)
    return DataLoader(data(samples), 8, shuffle=True, generator=shuffled), DataLoader(data(11), 4)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0] | states[1])


# --- the same as by hand --------------------------------------------------------------------------


def by_hand(
    *, amp: str | None, clip: float | None, accumulate: int, lr_step: str
) -> tuple[nn.Module, list[float], list[float], list[float]]:
    """Train with a loop that is written the long way."""
    model, optimizer = make()
    train_loader, val_loader = loaders()
    scheduler = StepLR(optimizer, 2, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    train_losses, val_losses, rates = [], [], []
    for _ in range(EPOCHS):
        model.train()
        total, samples = torch.zeros((), dtype=torch.float64), 0
        batches = list(train_loader)
        for index, (x, y) in enumerate(batches):
            group = min(accumulate, len(batches) - index // accumulate * accumulate)
            if index % accumulate == 0:
                optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=amp is not None):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss / group).backward()
            total += loss.detach().double() * len(x)
            samples += len(x)
            if index % accumulate == accumulate - 1 or index == len(batches) - 1:
                if clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                scaler.step(optimizer)
                scaler.update()
                if lr_step == "step":
                    scheduler.step()
        model.eval()
        val_total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            for x, y in val_loader:
                with torch.autocast("cpu", dtype=dtype, enabled=amp is not None):
                    val_total += F.cross_entropy(model(x), y).double() * len(x)
        train_losses.append(float(total) / samples)
        val_losses.append(float(val_total) / 11)
        rates.append(optimizer.param_groups[0]["lr"])
        if lr_step == "epoch":
            scheduler.step()
    return model, train_losses, val_losses, rates


@pytest.mark.parametrize("lr_step", ["epoch", "step"])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 7])  # of 5 batches
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
def test_equals_a_loop_written_by_hand(amp: Any, clip: float | None, accumulate: int, lr_step: Any) -> None:
    torch.manual_seed(4)
    torch.manual_seed(4)
    expected, train_losses, val_losses, rates = by_hand(amp=amp, clip=clip, accumulate=accumulate, lr_step=lr_step)
    model, optimizer = make()
    train_loader, val_loader = loaders()
    loop = TrainingLoop(EPOCHS, amp=amp, clip=clip, accumulate=accumulate, lr_step=lr_step)
    scheduler = StepLR(optimizer, 2, gamma=0.5)
    history = loop.run(model, optimizer, F.cross_entropy, train_loader, val_loader, scheduler)
    assert same(model, expected)
    assert history.column("train_loss") == train_losses
    assert history.column("val_loss") == val_losses
    assert history.column("lr") == rates


def test_options_that_only_watch_change_nothing() -> None:
    weights = []
    choices: list[dict[str, Any]] = [{}, {"metric": "accuracy"}, {"progress": False}, {"annotate": True}]
    for options in choices:
        model, optimizer = make()
        TrainingLoop(EPOCHS, **options).run(model, optimizer, F.cross_entropy, loaders()[0])
        weights.append(model)
    assert all(same(weights[0], other) for other in weights[1:])


def test_accuracy_is_that_of_the_samples() -> None:
    model, optimizer = make()
    train_loader, val_loader = loaders()
    history = TrainingLoop(2, metric="accuracy").run(model, optimizer, F.cross_entropy, train_loader, val_loader)
    x, y = data(11).tensors
    assert not model.training
    assert history[-1].values["val_accuracy"] == pytest.approx(float((model(x).argmax(1) == y).double().mean()))
    shares = history.column("train_accuracy")
    assert all(isinstance(share, float) and (share * 37) % 1 == pytest.approx(0, abs=1e-4) for share in shares)


def test_a_metric_of_ones_own() -> None:
    def largest(outputs: Tensor, targets: Tensor) -> float:
        assert len(outputs) == len(targets)
        return float(len(targets))

    model, optimizer = make()
    history = TrainingLoop(1, metric=largest).run(model, optimizer, F.cross_entropy, *loaders())
    assert history[0].values == {
        "train_largest": pytest.approx((4 * 8 * 8 + 5 * 5) / 37),
        "val_largest": pytest.approx((4 * 4 + 4 * 4 + 3 * 3) / 11),
    }
    nameless = TrainingLoop(1, metric=lambda outputs, targets: 1.0)
    assert nameless.run(model, optimizer, F.cross_entropy, loaders()[0])[0].values == {
        "train_metric": 1.0,
        "val_metric": None,
    }


def test_without_validation() -> None:
    model, optimizer = make()
    history = TrainingLoop(2).run(model, optimizer, F.cross_entropy, loaders()[0])
    assert history.column("val_loss") == [None, None]
    assert all(record.seconds > 0 for record in history)
    assert all(record.joules > 0 and ":" in record.energy_source for record in history)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(DataLoader(data(), 8))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loader_without_a_length(accumulate: int) -> None:
    runs = []
    for loader in (DataLoader(data(), 8), DataLoader(Stream(), batch_size=None), list(DataLoader(data(), 8))):
        model, optimizer = make()
        model[3] = nn.Identity()  # no dropout: a DataLoader draws from its random numbers
        TrainingLoop(2, accumulate=accumulate).run(model, optimizer, F.cross_entropy, loader)
        runs.append(model)
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


def test_reduce_on_plateau() -> None:
    model, optimizer = make()
    train_loader, val_loader = loaders()
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, factor=0.1)
    loop = TrainingLoop(3, lr_step="val_loss")
    history = loop.run(model, optimizer, F.cross_entropy, train_loader, val_loader, scheduler)
    assert history.column("lr") == pytest.approx([0.1, 0.01, 0.001])
    with pytest.raises(ValueError, match='TrainingLoop\\(lr_step="val_loss"\\)'):
        TrainingLoop(3).run(model, optimizer, F.cross_entropy, train_loader, val_loader, scheduler)
    with pytest.raises(ValueError, match="needs a val_loader"):
        loop.run(model, optimizer, F.cross_entropy, train_loader, None, scheduler)
    with pytest.raises(ValueError, match="is for ReduceLROnPlateau"):
        loop.run(model, optimizer, F.cross_entropy, train_loader, val_loader, StepLR(optimizer, 1))


# --- what a batch may be --------------------------------------------------------------------------


class Two(nn.Module):
    """Takes two inputs; and returns its own loss if it is given labels, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(6, 3)

    def forward(self, a: Tensor, b: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.layer(a) + self.layer(b)
        if labels is None:
            return logits
        return SimpleNamespace(logits=logits, loss=F.cross_entropy(logits, labels))


def train_two(batch: Any, loss_fn: Any, form: Callable[[Tensor, Tensor], Any], **options: Any) -> tuple[Two, Any]:
    model = Two()
    batches = [form(x, y) for x, y in DataLoader(data(), 8)]
    loop = TrainingLoop(2, batch=batch, **options)
    return model, loop.run(model, Adam(model.parameters()), loss_fn, batches, batches)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_inputs_in_every_form_train_the_same(accumulate: int) -> None:
    runs = [
        train_two("args", F.cross_entropy, lambda x, y: ((x, -2 * x), y), accumulate=accumulate),
        train_two("kwargs", F.cross_entropy, lambda x, y: ({"b": -2 * x, "a": x}, y), accumulate=accumulate),
        train_two("dict", None, lambda x, y: {"a": x, "b": -2 * x, "labels": y}, accumulate=accumulate),
        train_two(
            "dict",
            lambda outputs, batch: F.cross_entropy(outputs.logits, batch["labels"]),
            lambda x, y: {"a": x, "b": -2 * x, "labels": y},
            accumulate=accumulate,
            metric="accuracy",
        ),
    ]
    assert all(same(runs[0][0], model) for model, _ in runs)
    assert all(runs[0][1].column("val_loss") == history.column("val_loss") for _, history in runs)
    assert runs[-1][1][-1].values.keys() == {"train_accuracy", "val_accuracy"}


# --- the text -------------------------------------------------------------------------------------

PLAIN = '''\
"""Training loop, written by ecograph VERSION.

Its options:

    TrainingLoop(epochs=3, progress=False)
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from ecograph.loop.runtime import (
    Clock,
    History,
    LossWatch,
    Mean,
    batch_size,
    device_of,
    pairs,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loss_fn: Callable[..., Any],
    loader: Iterable[Any],
    device: torch.device,
) -> float | None:
    """Evaluate `model`: means over the samples of `loader`."""
    model.eval()
    val_loss = Mean()
    for inputs, targets in pairs(loader, device):
        outputs = model(inputs)
        loss = loss_fn(outputs, targets)
        val_loss.add(loss, batch_size(targets))
    return val_loss.mean()


def train(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[..., Any],
    train_loader: Iterable[Any],
    val_loader: Iterable[Any] | None = None,
    lr_scheduler: LRScheduler | None = None,
) -> History:
    """Train `model` in place and return the history: one record per epoch."""
    epochs = 3
    device = device_of(model)
    history = History()
    watch = LossWatch(model, history)

    for epoch in range(epochs):
        clock = Clock()
        model.train()
        # Summed on the device, read once per epoch: no step waits for it.
        train_loss = Mean()

        for inputs, targets in pairs(train_loader, device):
            optimizer.zero_grad(set_to_none=True)
            outputs = model(inputs)
            loss = loss_fn(outputs, targets)
            watch.check(loss, inputs)
            loss.backward()
            optimizer.step()
            train_loss.add(loss, batch_size(targets))

        val_loss = None
        if val_loader is not None:
            val_loss = evaluate(model, loss_fn, val_loader, device)

        history.record(
            epoch,
            train_loss=train_loss.mean(),
            val_loss=val_loss,
            lr=optimizer.param_groups[0]["lr"],
            seconds=clock.seconds(),
            energy=clock.energy(),
        )
        if lr_scheduler is not None:
            lr_scheduler.step()

    return history


if __name__ == "__main__":
    from ecograph.tools.standalone import main

    main(train)
'''


def test_the_plain_text() -> None:
    from ecograph import __version__

    assert TrainingLoop(3, progress=False).source == PLAIN.replace("VERSION", __version__)


TRACES = {
    "amp_bf16": (["autocast", "bfloat16"], {"amp": "bf16"}),
    "amp_fp16": (["autocast", "float16", "GradScaler", "scaler"], {"amp": "fp16"}),
    "clip": (["clip_grad_norm_"], {"clip": 1.0}),
    "clip_fp16": (
        ["clip_grad_norm_", "unscale_", "GradScaler", "scaler", "autocast", "float16"],
        {"clip": 1.0, "amp": "fp16"},
    ),
    "accumulate": (["grouped", "len(group)"], {"accumulate": 4}),
    "accuracy": (["accuracy", "train_accuracy", "val_accuracy"], {"metric": "accuracy"}),
    "progress": (["Progress", "progress.update"], {"progress": True}),
    "plateau": (["lr_scheduler.step(val_loss)"], {"lr_step": "val_loss"}),
    "args": (["*inputs", "inputs_are=tuple"], {"batch": "args"}),
    "kwargs": (["**inputs", "inputs_are=dict"], {"batch": "kwargs"}),
    "dict": (["batches(", "loss_of", "**batch"], {"batch": "dict"}),
}


def body(loop: TrainingLoop) -> str:
    return loop.source.split('"""', 2)[2]


@pytest.mark.parametrize("name", TRACES)
def test_the_text_has_what_was_asked_for_and_nothing_else(name: str) -> None:
    words, options = TRACES[name]
    text = body(TrainingLoop(2, **({"progress": False} | options)))  # type: ignore[arg-type]
    assert all(word in text for word in words)
    others = {word for trace, _ in TRACES.values() for word in trace} - set(words)
    assert not [word for word in others if word in text and not any(word in each for each in words)]
    assert "step," not in text  # nobody counts steps


def some_loops() -> Iterator[TrainingLoop]:
    """Yields loops of every kind, each option in many combinations with the others."""
    choices: dict[str, list[Any]] = {
        "amp": [None, "bf16", "fp16"],
        "clip": [None, 1.0],
        "accumulate": [1, 4],
        "metric": [None, "accuracy", print],
        "lr_step": ["epoch", "step", "val_loss"],
        "batch": ["pair", "args", "kwargs", "dict"],
        "compile": [False, True],
        "ema": [None, 0.999],
        "val_every": [1, 5],
        "stop": [None, "val_loss <= 0.1", "train_loss < 1e-3"],
        "checkpoint": [None, "runs/a"],
        "log": [None, "history.csv", ["history.jsonl", "runs/board"]],
        "callbacks": [[], [Callback()]],
        "passes": [
            *([], [GradSamp(every=4)], [Extrapolate(radius=0.1), SparseBackward(0.5)]),
            [GradSamp(probability=0.2, mode="none"), Extrapolate(radius=0.1, direction="noise", until=3), SliceOut()],
        ],
        "progress": [True, False],
        "annotate": [True, False],
    }
    draw = random.Random(0)
    for _ in range(60):
        yield TrainingLoop(30, **{name: draw.choice(values) for name, values in choices.items()})


def test_every_text_is_python_of_88_columns() -> None:
    for loop in some_loops():
        assert ast.dump(ast.parse(ast.unparse(ast.parse(loop.source)))) == ast.dump(ast.parse(loop.source))
        assert max(map(len, loop.source.splitlines())) <= 88


def test_every_text_passes_ruff(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for number, loop in enumerate(some_loops()):
        loop.eject(tmp_path / f"loop_{number}.py")
    rules = ["--select", "E,F,I,B,N,SIM,UP,D", "--config", 'lint.pydocstyle.convention = "google"']
    for check in (["check", *rules], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "."]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_saved_text_runs_on_its_own(tmp_path: Path) -> None:
    loop = TrainingLoop(2, amp="bf16", clip=1.0, accumulate=2, metric="accuracy")
    loop.eject(tmp_path / "my_loop.py")
    (tmp_path / "main.py").write_text(
        "import torch\n"
        "from my_loop import train\n"
        "torch.manual_seed(0)\n"
        "torch.set_num_threads(1)\n"
        "model = torch.nn.Linear(4, 2)\n"
        "batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(3)]\n"
        "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "history = train(model, optimizer, torch.nn.functional.cross_entropy, batches, batches)\n"
        "print(len(history), history.column('val_loss'))\n"
    )
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(3)]
    history = loop.run(model, SGD(model.parameters(), lr=0.1), F.cross_entropy, batches, batches)
    assert done.stdout == f"2 {history.column('val_loss')}\n"


def test_the_saved_text_is_the_text(tmp_path: Path) -> None:
    loop = TrainingLoop(2)
    loop.eject(str(tmp_path / "loop.py"))
    assert (tmp_path / "loop.py").read_text() == loop.source


def test_a_traceback_shows_the_line_of_the_text() -> None:
    model, optimizer = make()
    loop = TrainingLoop(1)
    with pytest.raises(ValueError) as caught:
        loop.run(model, optimizer, F.cross_entropy, [(torch.ones(2, 6), torch.ones(3, dtype=torch.long))])
    frame = next(f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename.startswith("<ecograph"))
    assert frame.line == "loss = loss_fn(outputs, targets)"
    assert frame.line == loop.source.splitlines()[(frame.lineno or 0) - 1].strip()
    linecache.checkcache()
    assert linecache.getline(frame.filename, 1).startswith('"""Training loop')


def test_every_loop_has_a_file_name_of_its_own() -> None:
    loops = TrainingLoop(1), TrainingLoop(1)
    names = {loop.train.__code__.co_filename for loop in loops}  # type: ignore[attr-defined]
    assert len(names) == 2
    assert loops[0].train is loops[0].train


# --- passes ---------------------------------------------------------------------------------------


class Switch:
    """Stands for a scheduler of a pass: counts steps."""

    made: ClassVar[list["Switch"]] = []

    def __init__(self, model: nn.Module, *, epochs: int, steps_per_epoch: int) -> None:
        self.total = epochs * steps_per_epoch
        self.steps = 0
        Switch.made.append(self)

    def step(self) -> None:
        self.steps += 1


@dataclass(frozen=True)
class Sparse:
    """Like a sparse backward: a scheduler beside the loop."""

    drop: float = 0.5
    name: ClassVar[str] = "Sparse"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "arXiv 0000.00000"

    def insert(self, program: Program) -> None:
        program.insert(
            "before_training",
            """
            # The share of gradients to drop, over time.
            switch = SWITCH(model, epochs=epochs, steps_per_epoch=STEPS)
            """,
            SWITCH=Switch,
            STEPS=program.steps_per_epoch,
        )
        program.insert("after_optimizer_step", "switch.step()")


@dataclass(frozen=True)
class Skip:
    """Like GradSamp: some epochs change the weights without training."""

    every: int = 2
    name: ClassVar[str] = "Skip"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "arXiv 0000.00001"

    def skips(self, epoch: int) -> bool:
        return epoch % self.every == self.every - 1

    def sample(self, model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)

    def insert(self, program: Program) -> None:
        program.insert("before_training", "skip = SKIP", SKIP=self)
        program.wrap(
            "train_epoch",
            """
            if skip.skips(epoch):
                # No data is read.
                skip.sample(model)
                history.note("skipped")
            else:
                ...
            """,
        )


@dataclass(frozen=True)
class Look:
    """Like extrapolation: the gradient is taken elsewhere, and applied where the weights were."""

    radius: float = 0.1
    name: ClassVar[str] = "Look"
    numerics: ClassVar[str] = "approximate"
    source: ClassVar[str] = "arXiv 0000.00002"

    def insert(self, program: Program) -> None:
        program.insert(
            "before_step",
            """
            with torch.no_grad():
                weights = [parameter.clone() for parameter in model.parameters()]
                for parameter in model.parameters():
                    if parameter.grad is not None:  # the gradient of the step before
                        parameter.sub_(parameter.grad, alpha=RADIUS)
            """,
            RADIUS=self.radius,
        )
        program.insert(
            "before_optimizer_step",
            """
            with torch.no_grad():
                for parameter, weight in zip(model.parameters(), weights):
                    parameter.copy_(weight)
            """,
        )


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_pass_with_a_scheduler(accumulate: int) -> None:
    model, optimizer = make()
    loop = TrainingLoop(3, passes=[Sparse()], accumulate=accumulate)
    loop.run(model, optimizer, F.cross_entropy, loaders()[0])
    assert Switch.made[-1].steps == Switch.made[-1].total == 3 * math.ceil(5 / accumulate)


def test_a_pass_that_skips_epochs() -> None:
    class Counted(list[Any]):
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            Counted.passes += 1
            return super().__iter__()

    model, optimizer = make()
    scheduler = StepLR(optimizer, 1, gamma=0.5)
    loop = TrainingLoop(4, passes=[Skip(every=2)])
    history = loop.run(model, optimizer, F.cross_entropy, Counted(loaders()[0]), loaders()[1], scheduler)
    assert Counted.passes == 2
    assert [loss is None for loss in history.column("train_loss")] == [False, True, False, True]
    assert history.column("note") == [None, "skipped", None, "skipped"]
    assert None not in history.column("val_loss")
    assert history.column("lr") == [0.1, 0.05, 0.025, 0.0125]
    assert "skip = Skip()" in loop.source and "Skip: approximate; arXiv 0000.00001" in loop.source


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_a_pass_that_extrapolates(amp: Any) -> None:
    model, optimizer = make()
    loop = TrainingLoop(2, passes=[Look(radius=0.25)], accumulate=2, amp=amp)
    batches = list(loaders()[0])
    loop.run(model, optimizer, F.cross_entropy, batches)
    if amp is not None:
        return
    expected, optimizer = make()
    expected.train()
    for _ in range(2):
        for start in (0, 2, 4):
            group = batches[start : start + 2]
            kept = [parameter.detach().clone() for parameter in expected.parameters()]
            with torch.no_grad():
                for parameter in expected.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.25 * parameter.grad
            optimizer.zero_grad()
            for x, y in group:
                (F.cross_entropy(expected(x), y) / len(group)).backward()
            with torch.no_grad():
                for parameter, weight in zip(expected.parameters(), kept, strict=True):
                    parameter.copy_(weight)
            optimizer.step()
    assert same(model, expected)


def test_passes_come_in_their_order() -> None:
    @dataclass(frozen=True)
    class Named:
        name: str
        numerics: str = "exact"
        source: str = "none"

        def insert(self, program: Program) -> None:
            program.insert("after_step", "print(NAME, step)", NAME=self.name)

    passes = [Named("b"), Named("a"), Named("c")]
    text = body(TrainingLoop(1, passes=passes))
    assert text.index('print("b"') < text.index('print("a"') < text.index('print("c"')
    assert "for step, (inputs, targets) in enumerate(pairs(train_loader, device)):" in text
    assert (
        "for step, group in enumerate(grouped(train_loader, 2)):" in TrainingLoop(1, passes=passes, accumulate=2).source
    )


def test_annotate_says_which_pass_made_what() -> None:
    loop = TrainingLoop(1, passes=[Sparse(), Skip(), Look()], annotate=True, clip=1.0)
    assert "# Sparse: The share of gradients to drop, over time.\n" in loop.source
    assert "# Skip\n    skip = Skip()\n" in loop.source
    assert "# clip" not in loop.source
    plain = TrainingLoop(1, passes=[Sparse(), Skip(), Look()], clip=1.0)
    assert ast.unparse(ast.parse(body(loop))) == ast.unparse(ast.parse(body(plain)))
    assert loop.program.origins()["Sparse"][-1] == "switch.step()"
    assert {"Sparse", "Skip", "Look", "clip", "progress", "lr_step"} == set(loop.program.origins())


def test_a_loop_with_passes_runs_with_every_option() -> None:
    model, optimizer = make()
    loop = TrainingLoop(
        4,
        passes=[Sparse(drop=0.8), Skip(), Look()],
        amp="fp16",
        clip=1.0,
        accumulate=2,
        metric="accuracy",
        lr_step="step",
        annotate=True,
    )
    history = loop.run(model, optimizer, F.cross_entropy, *loaders(), StepLR(optimizer, 100))
    assert len(history) == 4
    assert "Sparse(drop=0.8), Skip(), Look()" in " ".join(loop.source.split())


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs": "3"}, "epochs='3'"),
        ({"amp": "float16"}, "amp='float16' must be one of None, 'bf16', 'fp16'"),
        ({"amp": True}, "amp=True"),
        ({"clip": 0}, "clip=0 must be"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"clip": math.inf}, "clip=inf"),
        ({"clip": math.nan}, "clip=nan"),
        ({"clip": True}, "clip=True"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"metric": "f1"}, "metric='f1' must be None, \"accuracy\" or a function"),
        ({"metric": nn.Linear}, "metric=<class"),
        ({"lr_step": "batch"}, "lr_step='batch' must be one of 'epoch', 'step', 'val_loss'"),
        ({"batch": "tuple"}, "batch='tuple' must be one of"),
        ({"batch": ["pair"]}, "batch=.* must be one of"),
        ({"progress": 1}, "progress=1 must be True or False"),
        ({"annotate": "yes"}, "annotate='yes'"),
        ({"passes": Skip()}, "is not a list of loop passes"),
        ({"passes": "Skip"}, "passes='Skip' is not a list"),
        ({"passes": [Skip]}, "the class Skip: give an instance, Skip()"),
        ({"passes": ["Skip"]}, "passes has 'Skip', which is not a loop pass: it has no insert"),
        ({"passes": [SimpleNamespace(name="Graph")]}, "passes has Graph, which is not a loop pass"),
        ({"passes": [SimpleNamespace(name="X", insert=print)]}, "it has no numerics and no source"),
        ({"passes": [Skip(2), Skip(3)]}, "passes has Skip more than once"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingLoop(**({"epochs": 1} | options))


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        TrainingLoop(3, [Skip()])  # type: ignore[call-arg, misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet"}, "model is a str, not a torch.nn.Module"),
        ({"loss_fn": None}, 'loss_fn is None.*TrainingLoop\\(batch="dict"\\)'),
        ({"loss_fn": "mse"}, "loss_fn is a str"),
        ({"train_loader": data()}, r"train_loader is a data set.*DataLoader\(train_loader"),
        ({"val_loader": data()}, "val_loader is a data set"),
        ({"train_loader": []}, "a loader gave no batches"),
        ({"val_loader": DataLoader(data(3), 8, drop_last=True)}, "a loader gave no batches"),
        ({"train_loader": (pair for pair in loaders()[0])}, "used up after one epoch"),
        ({"optimizer": SGD([torch.ones(1)])}, "none of the model's parameters"),
        ({"optimizer": torch.optim.LBFGS([torch.ones(1)])}, "LBFGS"),
        ({"model": nn.ReLU(), "optimizer": SGD([torch.ones(1)])}, "none of the model's parameters"),
        (
            {"loss_fn": nn.CrossEntropyLoss(reduction="none")},
            "grad can be implicitly created only for scalar",
        ),
        ({"train_loader": [(torch.ones(2, 6),)]}, "a batch is 1 parts where"),
    ],
)
def test_arguments_that_cannot_work(change: dict[str, Any], message: str) -> None:
    model, optimizer = make()
    arguments = {
        "model": model,
        "optimizer": optimizer,
        "loss_fn": F.cross_entropy,
        "train_loader": loaders()[0],
    }
    with pytest.raises((ValueError, RuntimeError), match=message):
        TrainingLoop(2).run(**(arguments | change))  # type: ignore[arg-type]


def test_a_loss_that_is_nan_stops_the_run_and_keeps_the_history() -> None:
    model, optimizer = make()
    epochs = iter([1.0, 1.0, math.nan, 1.0])
    batches = [(torch.ones(4, 6), torch.zeros(4, dtype=torch.long))]

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * next(epochs)

    with pytest.raises(NonFiniteLossError, match="became nan in epoch 3.* loss function") as caught:
        TrainingLoop(9).run(model, optimizer, loss_fn, batches)
    assert len(caught.value.history) == 2
    assert next(epochs) == 1.0


def test_loops_are_values() -> None:
    loop = TrainingLoop(3, amp="bf16", passes=[Skip()])
    assert loop == TrainingLoop(3, amp="bf16", passes=(Skip(),))
    assert loop != TrainingLoop(3)
    assert copy.deepcopy(loop).source == pickle.loads(pickle.dumps(loop)).source == loop.source
    assert "Skip(every=2)" in repr(loop)
