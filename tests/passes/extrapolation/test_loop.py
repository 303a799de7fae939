"""The loop with the pass in it equals one that is written the long way, bit for bit; and its text says what it does."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

import ecograph
from ecograph.loop import TrainingLoop
from ecograph.passes import Extrapolate, GradSamp, SparseBackward
from ecograph.passes.extrapolation.noise import noise

EPOCHS = 3
RADIUS = 0.3


def make(kind: str = "sgd") -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(1)
    layers = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    model = nn.Sequential(*layers)
    if kind == "adam":
        return model, Adam(model.parameters(), lr=0.01, fused=True)
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    return TensorDataset(torch.randn(37, 6, generator=generator), torch.randint(3, (37,), generator=generator))


def loader() -> DataLoader[Any]:
    return DataLoader(data(), 8)


class Loss:
    """Cross-entropy whose gradient overflows at some batches, where it is to."""

    def __init__(self, overflows: bool) -> None:
        self.at = {3, 9} if overflows else set()
        self.calls = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        if self.calls in self.at:
            outputs.register_hook(lambda gradient: gradient * torch.inf)
        return F.cross_entropy(outputs, targets)


def by_hand(
    *, amp: str | None, clip: float | None, accumulate: int, direction: str, kind: str, until: int
) -> tuple[nn.Module, list[bool]]:
    """Trains with a loop that is written the long way; returns the model, and which steps the scaler left out."""
    model, optimizer = make(kind)
    weights = list(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=amp == "fp16")
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    directions: list[Tensor] | None = None
    skipped = []
    steps = 0
    loss_fn = Loss(amp == "fp16")
    for epoch in range(EPOCHS):
        model.train()
        batches = list(loader())
        while batches:
            group, batches = batches[:accumulate], batches[accumulate:]
            optimizer.zero_grad()
            if direction == "noise":
                directions = [noise(p.detach(), seed=0, step=steps, index=i) for i, p in enumerate(weights)]
            before = [p.detach().clone() for p in weights]
            if directions is not None and epoch < until:
                for p, d in zip(weights, directions, strict=True):
                    p.data = p.detach().add(d, alpha=-RADIUS)
            for x, y in group:
                with torch.autocast("cpu", dtype=dtype, enabled=amp is not None):
                    loss = loss_fn(model(x), y)
                scaler.scale(loss / len(group)).backward()
            for p, w in zip(weights, before, strict=True):
                p.data = w
            own = [p.grad / scaler.get_scale() for p in weights]
            scaler.unscale_(optimizer)
            if clip is not None:
                nn.utils.clip_grad_norm_(weights, clip)
            directions = own if direction == "local" else [p.grad.clone() for p in weights]
            finite = all(bool(torch.isfinite(p.grad).all()) for p in weights)
            if not finite:
                directions = None
            skipped.append(not finite)
            scaler.step(optimizer)
            scaler.update()
            steps += 1
    return model, skipped


@pytest.mark.parametrize("direction", ["past", "noise", "local"])
@pytest.mark.parametrize("accumulate", [1, 3])  # of 5 batches
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("amp", [None, "bf16", "fp16"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_equals_a_loop_written_by_hand(
    amp: Any, clip: float | None, accumulate: int, direction: Any, kind: str
) -> None:
    torch.manual_seed(4)
    options: dict[str, Any] = {"amp": amp, "clip": clip, "accumulate": accumulate}
    expected, skipped = by_hand(**options, direction=direction, kind=kind, until=2)
    assert sum(skipped) == (2 if amp == "fp16" else 0)
    torch.manual_seed(4)
    model, optimizer = make(kind)
    loop = TrainingLoop(EPOCHS, passes=[Extrapolate(RADIUS, direction=direction, until=2)], progress=False, **options)
    loop.run(model, optimizer, Loss(amp == "fp16"), loader())
    for (name, found), wanted in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(found, wanted), name  # the statistics of the batch norm too
    for state in optimizer.state.values():
        if "step" in state:
            assert int(state["step"]) == skipped.count(False)


def test_radius_zero_is_the_plain_loop_bit_for_bit() -> None:
    states = []
    for passes in ([], [Extrapolate(0)]):
        torch.manual_seed(4)
        model, optimizer = make()
        TrainingLoop(EPOCHS, passes=passes, progress=False).run(model, optimizer, F.cross_entropy, loader())
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("until", "accumulate", "steps"),
    [
        (None, 1, 15),
        (1, 1, 5),
        (2, 2, 6),
        (3, 1, 15),
        (9, 1, 15),
        (0.5, 1, 8),
        (0.5, 2, 4),  # round(4.5)
        (0.1, 1, 2),
        (1.0, 2, 9),
    ],
)
def test_until(until: Any, accumulate: int, steps: int) -> None:
    model, optimizer = make()
    weights = model[0].weight
    last = [weights.detach().clone()]
    optimizer.register_step_post_hook(lambda *_: last.append(weights.detach().clone()))
    found: dict[int, bool] = {}
    model.register_forward_pre_hook(lambda *_: found.update({len(last): not torch.equal(weights, last[-1])}))
    passes = [Extrapolate(RADIUS, direction="noise", until=until)]
    loop = TrainingLoop(EPOCHS, passes=passes, accumulate=accumulate, progress=False)
    loop.run(model, optimizer, F.cross_entropy, loader())
    assert len(found) == 15 if accumulate == 1 else 9
    assert list(found.values()) == [True] * steps + [False] * (len(found) - steps)


def test_a_loader_without_a_length() -> None:
    model, optimizer = make()

    class Stream:
        def __iter__(self) -> Any:
            return iter(loader())

    loop = TrainingLoop(2, passes=[Extrapolate(RADIUS, until=1)], progress=False)
    assert len(loop.run(model, optimizer, F.cross_entropy, Stream())) == 2


@pytest.mark.parametrize("direction", ["past", "noise", "local"])
@pytest.mark.parametrize("amp", [None, "fp16"])
def test_a_run_that_was_cut_off_goes_on_bit_for_bit(tmp_path: Path, direction: Any, amp: Any) -> None:
    passes = [Extrapolate(RADIUS, direction=direction, until=0.9)]
    left = [10**6]

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError
        return F.cross_entropy(outputs, targets)

    def run(folder: str, resume: bool = False) -> nn.Module:
        torch.manual_seed(4)
        model, optimizer = make()
        options: dict[str, Any] = {"checkpoint": tmp_path / folder, "checkpoint_every": 2, "amp": amp}
        loop = TrainingLoop(EPOCHS, passes=passes, progress=False, **options)
        loop.run(model, optimizer, loss_fn, loader(), resume=resume)
        return model

    whole = run("whole").state_dict()
    left[0] = 8
    with pytest.raises(ZeroDivisionError):
        run("cut")
    left[0] = 10**6
    resumed = run("cut", resume=True).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_together_with_other_passes() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs, targets = torch.randn(64, 16, generator=generator), torch.randint(4, (64,), generator=generator)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    sparse = SparseBackward(drop=0.5, when="always")
    model = ecograph.optimize(model, example_inputs=inputs, passes=[sparse])
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    loop = TrainingLoop(8, passes=[sparse, GradSamp(every=4), Extrapolate(0.1)], progress=False)
    batches = list(zip(inputs.split(16), targets.split(16), strict=True))
    history = loop.run(model, optimizer, F.cross_entropy, batches)
    assert sum("GradSamp" in record.note for record in history) == 2
    trained = [record.train_loss for record in history if record.train_loss is not None]
    assert trained[-1] < 0.8 * trained[0]


# --- the text -------------------------------------------------------------------------------------


def body(loop: TrainingLoop) -> str:
    """Returns what happens in one epoch, from the first step on."""
    start = loop.source.index("        for inputs" if loop.accumulate == 1 else "        # A group of")
    return textwrap.dedent(loop.source[start : loop.source.index("        val_loss = None", start)]).strip()


def test_the_text() -> None:
    loop = TrainingLoop(30, passes=[Extrapolate(radius=0.1)], progress=False)
    assert "    extrapolation = Extrapolation(model, optimizer, radius=0.1)\n" in loop.source
    step = """
        optimizer.zero_grad(set_to_none=True)
        with extrapolation.shifted():
            outputs = model(inputs)
            loss = loss_fn(outputs, targets)
            watch.check(loss, inputs)
            loss.backward()
        # The direction of the next step.
        extrapolation.update()
        optimizer.step()
    """
    assert textwrap.dedent(step) in "\n" + textwrap.dedent(body(loop).split("\n", 1)[1])
    assert "extrapolation" in loop.program.kept


def test_the_text_with_everything_around_it() -> None:
    passes = [Extrapolate(radius=0.1, until=5)]
    loop = TrainingLoop(30, passes=passes, amp="fp16", clip=1.0, accumulate=4, progress=False, annotate=True)
    assert "        if epoch >= 5:\n            extrapolation.stop()\n" in loop.source
    found = [line.strip() for line in body(loop).splitlines()]
    order = [
        "optimizer.zero_grad(set_to_none=True)",
        "with extrapolation.shifted():",
        "for inputs, targets in pairs(group, device):",
        "with torch.autocast(device.type, dtype=torch.float16):",
        "scaler.scale(loss / len(group)).backward()",
        "scaler.unscale_(optimizer)",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)",
        "# extrapolation: The direction of the next step.",
        "extrapolation.update()",
        "scaler.step(optimizer)",
    ]
    places = [found.index(line) for line in order]
    assert places == sorted(places)
    assert loop.source.count("scaler.unscale_") == 1


@pytest.mark.parametrize(
    ("options", "loop", "said", "not_said"),
    [
        ({}, {}, ["radius=0.1)"], ["direction=", "steps", "seed", "scaler"]),
        ({}, {"amp": "fp16"}, ["scaler.unscale_(optimizer)", "update()"], ["loss_scale"]),
        ({"direction": "local"}, {"amp": "fp16"}, ["update(loss_scale=scaler.get_scale())"], ["unscale_"]),
        ({"direction": "local"}, {"amp": "bf16"}, ['direction="local"', "update()"], ["scale"]),
        ({"direction": "noise"}, {"amp": "fp16"}, ['direction="noise")', "update()"], ["unscale_", "loss_scale"]),
        ({"direction": "noise", "seed": 3}, {}, ["seed=3"], []),
        ({"until": 0.3}, {}, ["steps=round(0.3 * epochs * steps_in(train_loader))"], ["stop()"]),
        ({"until": 0.3}, {"accumulate": 4}, ["0.3 * epochs * steps_in(train_loader, accumulate=4)"], ["stop()"]),
        ({"until": 1.0}, {}, [], ["steps", "stop()"]),
    ],
)
def test_only_what_was_asked_for_is_in_the_text(
    options: dict[str, Any], loop: dict[str, Any], said: list[str], not_said: list[str]
) -> None:
    source = TrainingLoop(30, passes=[Extrapolate(radius=0.1, **options)], progress=False, **loop).source
    text = source[source.index("def train(") :].replace("epochs=", "")
    flat = " ".join(text.split())
    assert not [each for each in said if each not in flat and each not in text]
    assert not [each for each in not_said if each in text]


def test_nothing_is_left_in_a_loop_without_it() -> None:
    assert "extrapol" not in TrainingLoop(30, amp="fp16").source
