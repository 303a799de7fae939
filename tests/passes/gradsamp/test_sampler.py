"""From epoch to epoch: in a loop of one's own, killed and resumed."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ecograph
from ecograph.passes import GradSamp
from ecograph.passes.gradsamp import EpochSampler

STEPS = 3


def new() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(16, 6, generator=generator)
    optimizer.zero_grad()
    F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
    optimizer.step()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, sampler: Any, epochs: int) -> Iterator[tuple[int, int]]:
    """Trains, and gives after each step what has been done."""
    for epoch in range(epochs):
        if sampler.on_epoch_start(model):
            continue
        for each in range(STEPS):
            step(model, optimizer, epoch * STEPS + each)
            yield epoch, each


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0] | states[1])


@pytest.mark.parametrize(
    ("options", "epochs", "skipped"),
    [
        ({}, 9, {3, 7}),
        ({"every": 3, "mode": "none"}, 9, {2, 5, 8}),
        ({"every": 3, "mode": "extrapolate", "warmup": 2}, 9, {4, 7}),
        ({"probability": 1.0, "granularity": "channel"}, 7, {2, 5}),
    ],
)
def test_in_a_loop_of_ones_own(options: dict[str, Any], epochs: int, skipped: set[int]) -> None:
    gradsamp = GradSamp(**options)
    model, optimizer = new()
    trained = [epoch for epoch, each in train(model, optimizer, gradsamp, epochs) if each == 0]
    assert set(range(epochs)) - set(trained) == skipped


def test_the_weights_in_a_skipped_epoch_are_all_that_changes() -> None:
    model, optimizer = new()
    gradsamp = GradSamp(3)
    for _ in train(model, optimizer, gradsamp, 2):
        pass
    before = copy.deepcopy(model.state_dict())
    assert gradsamp.on_epoch_start(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in model.named_parameters()} - {"0.bias"}  # the batch norm cancels it


@pytest.mark.parametrize("mode", ["gaussian", "extrapolate", "none"])
def test_a_copy_is_held_for_the_one_epoch_that_needs_it(mode: Any) -> None:
    model, optimizer = new()
    sampler = EpochSampler(GradSamp(4, mode=mode, cooldown=1), epochs=9)
    held = []
    for epoch in range(9):
        starts = [parameter.detach().clone() for parameter in model.parameters()]
        if not sampler.on_epoch_start(model):
            step(model, optimizer, epoch)
        snapshot = sampler.state_dict()["snapshot"]
        if snapshot is not None:
            held.append(epoch)
            assert all(torch.equal(a, b) for a, b in zip(snapshot.values(), starts, strict=True))
    assert held == ([] if mode == "none" else [2, 6])


def test_no_copy_for_an_epoch_that_cooldown_trains() -> None:
    for cooldown, held in ((0, True), (1, False)):
        sampler = EpochSampler(GradSamp(4, cooldown=cooldown), epochs=8)
        sampler.on_epoch_start(nn.Linear(2, 2), 6)
        assert (sampler.state_dict()["snapshot"] is not None) is held
        assert sampler.trains(7) is not held


def test_cooldown_needs_the_number_of_epochs() -> None:
    with pytest.raises(
        ValueError, match=r"cooldown=2 counts from the end.*EpochSampler\(GradSamp\(..., cooldown=2\), epochs=30\)"
    ):
        GradSamp(cooldown=2).on_epoch_start(nn.Linear(2, 2))
    assert EpochSampler(GradSamp(cooldown=2), epochs=29).trains(27)
    assert not EpochSampler(GradSamp(cooldown=2), epochs=30).trains(27)


@pytest.mark.parametrize(
    ("options", "epochs", "words"),
    [
        ({}, 3, "every=4, warmup=0 and cooldown=0 skips none of the 3 epochs: lower every"),
        ({"warmup": 5, "cooldown": 5}, 13, "warmup=5 and cooldown=5 skips none of the 13"),
        ({"probability": 0.5, "warmup": 20}, 20, "probability=0.5, .*raise probability"),
    ],
)
def test_a_plan_without_a_skip_is_told(options: dict[str, Any], epochs: int, words: str) -> None:
    with pytest.warns(ecograph.NoEffectWarning, match=words) as caught:
        EpochSampler(GradSamp(**options), epochs=epochs)
    assert caught[0].filename == __file__


# --- resumed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["device", "cpu"])
@pytest.mark.parametrize("granularity", ["tensor", "element"])
def test_resumed_after_any_step_it_is_the_training_that_went_on(granularity: Any, where: Any) -> None:
    options: dict[str, Any] = {"every": 3, "granularity": granularity, "snapshot": where}
    epochs = 7
    whole, optimizer = new()
    sampler = EpochSampler(GradSamp(**options), epochs=epochs)
    states = []
    for place in train(whole, optimizer, sampler, epochs):
        parts = whole.state_dict(), optimizer.state_dict(), sampler.state_dict()
        states.append((place, through_a_file(copy.deepcopy(parts))))
    assert len(states) == 5 * STEPS
    for (epoch, done), (weights, moments, state) in states:
        model, optimizer = new()
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
        sampler = EpochSampler(GradSamp(**options), epochs=epochs)
        sampler.load_state_dict(state)
        for now in range(epoch, epochs):  # the epoch that was interrupted is begun again
            if sampler.on_epoch_start(model, now):
                continue
            for each in range(done + 1 if now == epoch else 0, STEPS):
                step(model, optimizer, now * STEPS + each)
        assert same(model, whole), (epoch, done)


def test_resumed_right_after_a_skip() -> None:
    model, optimizer = new()
    sampler = EpochSampler(GradSamp(3))
    for _ in train(model, optimizer, sampler, 3):
        pass
    moved = copy.deepcopy(model.state_dict())
    again = EpochSampler(GradSamp(3))
    again.load_state_dict(through_a_file(sampler.state_dict()))
    assert again.on_epoch_start(model, 2)  # begun before: the weights have moved already
    assert all(torch.equal(tensor, moved[name]) for name, tensor in model.state_dict().items())
    assert not again.on_epoch_start(model, 3)


def test_the_callback_has_the_same_state() -> None:
    model, optimizer = new()
    gradsamp = GradSamp(3)
    for _ in train(model, optimizer, gradsamp, 2):
        pass
    other, state = copy.deepcopy(model), through_a_file(gradsamp.state_dict())
    assert gradsamp.on_epoch_start(model)
    resumed = GradSamp(3)
    resumed.load_state_dict(state)
    assert resumed.on_epoch_start(other)
    assert same(model, other)


# --- mistakes -----------------------------------------------------------------------------------------


def moved(model: nn.Module, *epochs: int) -> None:
    sampler = EpochSampler(GradSamp(3))
    for epoch in epochs:
        sampler.on_epoch_start(model, epoch)


@pytest.mark.parametrize("epochs", [(2,), (0, 2), (1, 0, 2), (0, 1, 3, 5)])
def test_a_skip_needs_the_start_of_the_epoch_before(epochs: tuple[int, ...]) -> None:
    model = nn.Linear(2, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=rf"epoch {epochs[-1] + 1} is skipped, .*load the state_dict\(\)"):
        moved(model, *epochs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_control_without_an_update_needs_nothing() -> None:
    sampler = EpochSampler(GradSamp(3, mode="none"))
    assert sampler.on_epoch_start(nn.Linear(2, 2), 2)


def test_a_model_is_needed() -> None:
    gradsamp = GradSamp(3)
    assert not gradsamp.on_epoch_start(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="model is a int, not a torch.nn.Module"):
        gradsamp.on_epoch_start(7)  # type: ignore[arg-type]


def test_a_state_of_something_else() -> None:
    with pytest.raises(ValueError, match="not the state of a GradSamp: epoch, snapshot missing"):
        GradSamp(3).load_state_dict({"steps": 3})


def test_a_model_without_trainable_parameters() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    before: Tensor = model.weight.clone()
    with pytest.warns(ecograph.NoEffectWarning, match="moves nothing"):
        moved(model, 0, 1, 2)
    assert torch.equal(model.weight, before)
