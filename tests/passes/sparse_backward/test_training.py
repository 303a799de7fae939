"""Whole models in training: they learn, and checkpointing, compiling and precision change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import ecograph
from ecograph.passes import SparseBackward
from ecograph.record import records

ALL = {"when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}


class SmallCnn(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.more = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2)
        self.head = nn.Linear(2 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.more(torch.relu(self.body(x))))
        return self.head(x.mean((2, 3)))


class SmallTransformer(nn.Module):
    def __init__(self, width: int = 24, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, width)
        self.place = nn.Parameter(torch.randn(8, width) / 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, 12)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def bars(count: int) -> tuple[Tensor, Tensor]:
    """Noisy images of a bright quarter; the label says which."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (count,), generator=generator)
    images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 1
    return images, labels


def sequences(count: int) -> tuple[Tensor, Tensor]:
    """Counting up modulo 12 from a random start; the label of each token is the next one."""
    start = torch.randint(0, 12, (count, 1), generator=torch.Generator().manual_seed(0))
    ids = (start + torch.arange(9)) % 12
    return ids[:, :-1], ids[:, 1:]


TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, Tensor]]]] = {
    "CNN": (SmallCnn, bars),
    "transformer": (SmallTransformer, sequences),
}


@pytest.mark.parametrize("select", ["topk", "random"])
@pytest.mark.parametrize("task", TASKS)
def test_it_learns(task: str, select: str) -> None:
    build, make_data = TASKS[task]
    inputs, labels = make_data(128)
    model = build()
    options = SparseBackward(0.8, select=select, unbiased=select == "random", **ALL)
    ecograph.optimize(model, example_inputs=inputs[:2], passes=[options])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scheduler = ecograph.Scheduler(model, epochs=10, steps_per_epoch=8)
    losses = []
    for step in range(80):
        rows = slice(16 * (step % 8), 16 * (step % 8) + 16)
        loss = F.cross_entropy(model(inputs[rows]).flatten(0, -2), labels[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert sum(losses[:3]) / 3 > 1.2
    assert sum(losses[-8:]) / 8 < 0.4 * losses[0]
    predicted = model.eval()(inputs).argmax(-1)
    assert (predicted == labels).double().mean() > 0.85


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.inner = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Dropout(0.3), nn.Linear(20, 12))
        self.gain = nn.Parameter(torch.ones(12, 1))
        self.reentrant = reentrant

    def scaled(self, x: Tensor) -> Tensor:
        return F.linear(self.inner(x), self.inner[3].weight.t()[:, :20] * self.gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.reentrant is None:
            return self.scaled(x)
        return checkpoint(self.scaled, x, use_reentrant=self.reentrant)


class Block(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.inner = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Dropout(0.3), nn.Linear(20, 12))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.inner(x) if self.reentrant is None else checkpoint(self.inner, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("select", ["topk", "random"])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("schedule", ["constant", "alternate"])
def test_checkpointing_gives_the_same_gradients_and_ticks_once(reentrant: bool, schedule: str, select: str) -> None:
    runs = []
    for use in (None, reentrant):
        torch.manual_seed(0)
        model = Block(use)
        options = SparseBackward(0.75, schedule=schedule, **ALL)
        ecograph.optimize(model, passes=[options])
        (rate,) = records(model)[0].rates
        found = []
        for step in range(4):
            torch.manual_seed(step)
            model.zero_grad()
            model(torch.randn(5, 6)).square().sum().backward()
            found.append({name: p.grad.clone() for name, p in model.named_parameters()})
            assert rate.now == (0.0 if schedule == "alternate" and step % 2 == 0 else 0.75)
        runs.append(found)
    for plain, again in zip(*runs, strict=True):
        for name, value in plain.items():
            assert torch.equal(again[name], value), name
    assert runs[0][1]["inner.0.bias"].count_nonzero() == 5


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_first_batch_decides_under_checkpointing_too(reentrant: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 20), Block(reentrant), nn.Linear(12, 3))
    model[1].first = nn.Linear(20, 12)
    ecograph.optimize(model, passes=[SparseBackward(0.5, min_channels=1)])
    model(torch.randn(4, 6)).sum().backward()
    reasons = [layer.reason for layer in ecograph.explain(model).layers]
    assert not any("first training batch" in reason for reason in reasons)


class Compilations:
    """A backend that counts what it is asked to compile, and runs it with AOTAutograd."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        from torch._dynamo.backends.debugging import aot_eager

        self.count += 1
        return aot_eager(module, inputs)


def steps(model: nn.Module, batches: list[Tensor], scheduler: Any = None) -> list[dict[str, Tensor]]:
    found = []
    for batch in batches:
        model.zero_grad()
        model(batch).square().mean().backward()
        found.append({n.removeprefix("_orig_mod."): p.grad.clone() for n, p in model.named_parameters()})
        if scheduler is not None:
            scheduler.step()
    return found


class Routed(nn.Module):
    """GPT-2's way with weights, attention, and a plain layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(8))
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(x.size()[:-1] + (8,))
        return self.head(self.attend(x, x, x, need_weights=False)[0])


COMPILED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "CNN": (SmallCnn, lambda: torch.randn(4, 1, 8, 8)),
    "transformer": (lambda: SmallTransformer(layers=1), lambda: torch.randint(0, 12, (4, 8))),
    "routed": (Routed, lambda: torch.randn(4, 5, 8)),
}


# Tracing and compiling, torch calls what it has deprecated itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("with_scheduler", [True, False], ids=["Scheduler", "ticking"])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_whole_it_computes_the_same_and_compiles_twice(name: str, with_scheduler: bool) -> None:
    build, make_input = COMPILED[name]
    batches = [make_input() for _ in range(6)]
    eager = build()
    ecograph.optimize(eager, passes=[SparseBackward(0.75, **ALL)])
    other = copy.deepcopy(eager)
    torch._dynamo.reset()
    backend = Compilations()
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    schedulers = [
        ecograph.Scheduler(model, epochs=6, steps_per_epoch=1) if with_scheduler else None
        for model in (eager, compiled)
    ]
    want, found = steps(eager, batches, schedulers[0]), steps(compiled, batches, schedulers[1])
    assert backend.count == 2
    for step, (ours, theirs) in enumerate(zip(found, want, strict=True)):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)
        assert (theirs["head.bias"].count_nonzero().item() < theirs["head.bias"].numel()) is (step % 2 == 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_the_first_batch_decides_and_then_nothing_compiles_any_more() -> None:
    model = SmallCnn()
    ecograph.optimize(model, passes=[SparseBackward(0.75, min_channels=1)])
    torch._dynamo.reset()
    backend = Compilations()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    counts = []
    for _ in range(6):
        compiled(torch.randn(64, 1, 8, 8)).square().mean().backward()
        counts.append(backend.count)
    assert not any("first training" in layer.reason for layer in ecograph.explain(model).layers)
    assert counts[-1] == counts[3] <= 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_gradual_schedule_compiles_once_per_rate() -> None:
    model = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
    ecograph.optimize(model, example_inputs=torch.randn(8, 6), passes=[SparseBackward(0.8, schedule="linear", **ALL)])
    torch._dynamo.reset()
    backend = Compilations()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    scheduler = ecograph.Scheduler(compiled, epochs=3, steps_per_epoch=1)
    kept = []
    for _ in range(3):
        model.zero_grad()
        compiled(torch.randn(8, 6)).square().mean().backward()
        kept.append(int(model[2].bias.grad.count_nonzero()))
        scheduler.step()
    assert kept == [40, 24, 8]
    assert backend.count <= 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("task", TASKS)
def test_autocast_trains(task: str, dtype: torch.dtype) -> None:
    build, make_data = TASKS[task]
    inputs, labels = make_data(64)
    model = build()
    ecograph.optimize(model, example_inputs=inputs, passes=[SparseBackward(0.8, schedule="constant", **ALL)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16, init_scale=1024.0)
    losses = []
    for _ in range(25):
        with torch.autocast("cpu", dtype):
            loss = F.cross_entropy(model(inputs).flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_channels_last_goes_through_a_whole_model() -> None:
    model = SmallCnn().to(memory_format=torch.channels_last)
    ecograph.optimize(model, passes=[SparseBackward(0.75, schedule="constant", **ALL)])
    seen = []
    for module in (model.stem, model.body, model.more):
        module.register_forward_hook(lambda m, args, out: out.register_hook(lambda g: seen.append((out, g))) and None)
    x = torch.randn(2, 1, 8, 8).to(memory_format=torch.channels_last)
    model(x).square().sum().backward()
    assert len(seen) == 3
    for output, _ in seen:
        assert output.is_contiguous(memory_format=torch.channels_last)
    for name in ("body", "more"):
        weight = model.get_submodule(name).weight
        assert weight.grad.is_contiguous(memory_format=torch.channels_last)
        assert weight.grad.stride() == weight.stride()


def test_functional_call_and_grad() -> None:
    model = SmallCnn().eval()
    model.train()
    model.norm.eval()
    ecograph.optimize(model, passes=[SparseBackward(0.75, schedule="constant", **ALL)])
    x = torch.randn(3, 1, 8, 8)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(given: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, given, (x,)).square().sum()

    found = torch.func.grad(loss)(parameters)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
        assert name != "body.bias" or found[name].count_nonzero() == 8


def test_per_sample_gradients_by_vmap_are_dense_rather_than_an_error() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    ecograph.optimize(model, passes=[SparseBackward(0.75, schedule="constant", **ALL)])
    x = torch.randn(5, 6)

    def per_sample(which: nn.Module) -> dict[str, Tensor]:
        parameters = {name: p.detach() for name, p in which.named_parameters()}

        def loss(given: dict[str, Tensor], row: Tensor) -> Tensor:
            return torch.func.functional_call(which, given, (row,)).square().sum()

        return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)

    found, expected = per_sample(model), per_sample(plain)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forward_mode_is_dense_rather_than_an_error() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    ecograph.optimize(model, passes=[SparseBackward(0.75, schedule="constant", **ALL)])
    x, tangent = torch.randn(5, 6), torch.randn(5, 6)
    for found, expected in zip(*(torch.func.jvp(each, (x,), (tangent,)) for each in (model, plain)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("training", [True, False])
def test_an_exported_program_computes_the_forward(training: bool) -> None:
    model = SmallCnn().train(training)
    model.norm.eval()
    ecograph.optimize(model, passes=[SparseBackward(0.75, schedule="constant", **ALL)])
    x = torch.randn(3, 1, 8, 8)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("training", [True, False])
def test_symbolic_trace_of_an_optimized_model_keeps_the_sparse_backward(training: bool) -> None:
    model = SmallCnn()
    model.norm.eval()
    model.train(training)
    ecograph.optimize(model, passes=[SparseBackward(0.75, schedule="constant", **ALL)])
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(3, 1, 8, 8)
    grads = []
    for each in (copy.deepcopy(model), traced):
        each.zero_grad()
        each(x).square().sum().backward()
        grads.append([p.grad.clone() for _, p in sorted(each.named_parameters())])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)
    bias = dict(traced.named_parameters())["body.bias"]
    assert (bias.grad.count_nonzero() == 8).item() is training
    traced.train()
    assert [n.target for n in traced.graph.nodes if n.op == "call_module"] == ["stem", "norm", "body", "more", "head"]
    traced.zero_grad()
    traced(x).square().sum().backward()
    assert bias.grad.count_nonzero() == 8, "the traced layers are live"
