"""The object by itself: what moves, what comes back, and what is refused."""

from __future__ import annotations

import copy
import gc
import io
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam

import ecograph
from ecograph.passes import SliceOut, SparseBackward
from ecograph.passes.extrapolation import Extrapolation

DIRECTIONS = ["past", "noise", "local"]


class Net(nn.Module):
    """With a tied weight, a frozen one, one that the forward leaves out, a batch norm and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(self.frozen(self.second(torch.tanh(self.first(x)))))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 3, 5, 5, generator=generator), torch.randint(4, (6,), generator=generator)


def loss(model: nn.Module, seed: int = 0) -> Tensor:
    x, y = batch(seed)
    return F.cross_entropy(model(x), y)


def make(direction: Any = "past", radius: float = 0.1, **options: Any) -> tuple[Net, SGD, Extrapolation]:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, Extrapolation(model, optimizer, radius=radius, direction=direction, **options)


def step(model: nn.Module, optimizer: Any, extrapolation: Extrapolation, seed: int = 0) -> None:
    optimizer.zero_grad()
    with extrapolation.shifted():
        loss(model, seed).backward()
    extrapolation.update()
    optimizer.step()


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone().view(torch.int32) for name, p in model.named_parameters()}


def moved(model: nn.Module, extrapolation: Extrapolation) -> dict[str, Tensor]:
    """Returns how far each parameter is displaced within the block, where it is."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with extrapolation.shifted():
        apart = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    return {name: d for name, d in apart.items() if d.any()}


# --- what moves -----------------------------------------------------------------------------------


def test_only_what_is_trained_moves_and_once() -> None:
    model, optimizer, extrapolation = make()
    assert not moved(model, extrapolation)  # there is no past yet
    step(model, optimizer, extrapolation)
    found = moved(model, extrapolation)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) <= set(gradients) and "first.weight" in found and "second.weight" not in found
    assert not [name for name in gradients if name.startswith(("frozen", "unused"))]
    for name, apart in found.items():
        torch.testing.assert_close(apart, 0.1 * gradients[name], rtol=1e-3, atol=1e-7)


def test_noise_moves_what_is_trained_by_a_share_of_its_size() -> None:
    model = nn.Sequential(nn.Linear(200, 300), nn.Linear(300, 100), nn.Linear(9, 9).requires_grad_(False))
    nn.init.zeros_(model[1].bias)
    model[0].weight.data.mul_(50)
    optimizer = SGD(model.parameters(), lr=0.1)
    extrapolation = Extrapolation(model, optimizer, radius=0.02, direction="noise")
    found = moved(model, extrapolation)
    assert set(found) == {"0.weight", "0.bias", "1.weight"}  # zeros have no size
    for name in ("0.weight", "1.weight"):
        noise = found[name].double() / model.get_parameter(name).detach().double().square().mean().sqrt()
        assert float(noise.std()) == pytest.approx(0.02, rel=0.02)
        assert float(noise.mean()) == pytest.approx(0, abs=3e-4)
        assert float((noise.abs() < 0.02).double().mean()) == pytest.approx(0.6827, abs=0.01)  # as for a Gaussian


def test_noise_is_a_function_of_seed_step_and_parameter() -> None:
    def draw(steps: int, **options: Any) -> dict[str, Tensor]:
        model, _, extrapolation = make("noise", **options)
        for _ in range(steps):
            extrapolation.update()
        torch.rand(7)  # whatever else is drawn
        return moved(model, extrapolation)

    first, again, other_seed, other_step = draw(0), draw(0), draw(0, seed=1), draw(1)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other_seed[name])
        assert not torch.equal(first[name], other_step[name])
    bias = {name: d / d.abs().max() for name, d in first.items() if d.shape == (8,)}
    assert len(bias) >= 3 and len({tuple(d.tolist()) for d in bias.values()}) == len(bias)


def test_noise_leaves_the_random_numbers_of_others_alone() -> None:
    model, _, extrapolation = make("noise")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    moved(model, extrapolation)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_place_is_the_same_until_update(direction: Any) -> None:
    model, optimizer, extrapolation = make(direction)
    step(model, optimizer, extrapolation)
    first, second = moved(model, extrapolation), moved(model, extrapolation)
    assert first and all(torch.equal(first[name], second[name]) for name in first)
    step(model, optimizer, extrapolation, seed=1)
    third = moved(model, extrapolation)
    assert not any(torch.equal(first[name], third.get(name, first[name] + 1)) for name in first)


@pytest.mark.parametrize("blocks", ["one", "one for each batch"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_accumulated_batches_are_at_one_place(blocks: str, direction: Any) -> None:
    model, optimizer, extrapolation = make(direction)
    step(model, optimizer, extrapolation)
    places: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, args: places.append(module.head.weight.detach().clone()))
    before = bits(model)
    optimizer.zero_grad()
    if blocks == "one":
        with extrapolation.shifted():
            for seed in range(3):
                (loss(model, seed) / 3).backward()
    else:
        for seed in range(3):
            with extrapolation.shifted():
                (loss(model, seed) / 3).backward()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
    extrapolation.update()
    assert not torch.equal(places[0], model.head.weight)
    assert torch.equal(places[0], places[1]) and torch.equal(places[0], places[2])
    if direction != "noise":
        kept = extrapolation.state_dict()["gradients"]
        for index, parameter in enumerate(model.parameters()):
            if parameter.grad is not None:
                assert torch.equal(kept[index], parameter.grad)


def test_the_past_is_the_clipped_gradient() -> None:
    model, optimizer, extrapolation = make(radius=2.0)
    with extrapolation.shifted():
        loss(model).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    extrapolation.update()
    optimizer.step()
    far = torch.cat([d.flatten() for d in moved(model, extrapolation).values()]).norm()
    assert float(far) == pytest.approx(0.02, rel=1e-3)


def test_local_without_ddp_is_the_gradient_before_a_reduction_by_hand() -> None:
    model, optimizer, extrapolation = make("local")
    with extrapolation.shifted():
        loss(model).backward()
    own = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(0.5)  # as an all-reduce would change it
    extrapolation.update()
    kept = extrapolation.state_dict()["gradients"].values()
    assert all(torch.equal(a, b) for a, b in zip(own, kept, strict=True))


def test_groups_that_come_later_and_weights_that_are_frozen_later() -> None:
    model, optimizer, extrapolation = make()
    optimizer.param_groups[0]["params"] = list(model.head.parameters())
    step(model, optimizer, extrapolation)
    assert set(moved(model, extrapolation)) == {"head.weight", "head.bias"}
    optimizer.add_param_group({"params": model.conv.parameters()})
    step(model, optimizer, extrapolation)
    assert set(moved(model, extrapolation)) == {"head.weight", "head.bias", "conv.weight", "conv.bias"}
    model.head.requires_grad_(False)
    assert set(moved(model, extrapolation)) == {"conv.weight", "conv.bias"}


def test_sparse_gradients() -> None:
    model = nn.Embedding(10, 3, sparse=True)
    optimizer = SGD(model.parameters(), lr=0.1)
    extrapolation = Extrapolation(model, optimizer, radius=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        with extrapolation.shifted():
            model(torch.tensor([1, 4, 4])).square().sum().backward()
        extrapolation.update()
        optimizer.step()
    found = moved(model, extrapolation)["weight"]
    torch.testing.assert_close(found, 0.5 * model.weight.grad.to_dense())
    assert found[[1, 4]].all() and not found[[0, 2, 3, 5, 6, 7, 8, 9]].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("direction", ["past", "noise"])
def test_dtypes(dtype: torch.dtype, direction: Any) -> None:
    model = nn.Linear(4, 4, dtype=dtype)
    optimizer = SGD(model.parameters(), lr=0.1)
    extrapolation = Extrapolation(model, optimizer, radius=0.25, direction=direction)
    with extrapolation.shifted():
        model(torch.ones(2, 4, dtype=dtype)).abs().square().sum().backward()
    extrapolation.update()
    before = model.weight.detach().clone()
    found = moved(model, extrapolation)["weight"]
    assert found.dtype == dtype and torch.equal(model.weight, before)
    if direction == "past":
        torch.testing.assert_close(found, 0.25 * model.weight.grad, rtol=0.1, atol=0.01)


# --- what comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_weights_come_back_bit_for_bit(direction: Any) -> None:
    model, optimizer, extrapolation = make(direction, radius=1e3)
    step(model, optimizer, extrapolation)
    with torch.no_grad():
        model.head.weight[0] = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 1e38, 1 / 3, 1e-20, math.pi])
    before, places = bits(model), [p.data_ptr() for p in model.parameters()]
    strides = [p.stride() for p in model.parameters()]
    kept = [copy.deepcopy(p.grad) for p in model.parameters()]
    with extrapolation.shifted():
        assert any(not torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
    assert places == [p.data_ptr() for p in model.parameters()]
    assert strides == [p.stride() for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_weights_come_back_after_an_exception(direction: Any, error: type[BaseException]) -> None:
    model, optimizer, extrapolation = make(direction)
    step(model, optimizer, extrapolation)
    before = bits(model)

    def fail(*_: Any) -> None:
        raise error

    handle = model.head.register_forward_pre_hook(fail)
    with pytest.raises(error), extrapolation.shifted():
        loss(model).backward()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
    handle.remove()
    step(model, optimizer, extrapolation)  # and training goes on


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_weights_that_are_nan_come_back(direction: Any) -> None:
    model, optimizer, extrapolation = make(direction)
    step(model, optimizer, extrapolation)
    model.head.weight.data[0, 0] = math.nan
    before = bits(model)
    with extrapolation.shifted():
        pass
    assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))


def test_batch_norm_sees_the_forwards_as_they_are() -> None:
    """Each batch counts once, at the place where its gradient is computed; nothing is put back."""
    model, optimizer, extrapolation = make(radius=5.0)
    step(model, optimizer, extrapolation)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for own, trained in zip(expected.parameters(), model.parameters(), strict=True):
            if trained.grad is not None:
                own.sub_(trained.grad, alpha=5.0)
    expected(batch(1)[0])
    step(model, optimizer, extrapolation, seed=1)
    assert torch.equal(model.norm.running_mean, expected.norm.running_mean)
    assert torch.equal(model.norm.running_var, expected.norm.running_var)
    assert int(model.norm.num_batches_tracked) == 2


# --- gradients that are no numbers -----------------------------------------------------------------


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_after_a_gradient_that_is_no_number_the_step_is_plain(value: float) -> None:
    model, optimizer, extrapolation = make()
    step(model, optimizer, extrapolation)
    with extrapolation.shifted():
        loss(model).backward()
    model.norm.bias.grad[3] = value  # one is enough
    extrapolation.update()
    assert not moved(model, extrapolation)
    before = bits(model)
    with extrapolation.shifted():  # -0.0 stays, too
        assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
    step(model, optimizer, extrapolation)
    assert moved(model, extrapolation)


def test_large_gradients_are_numbers() -> None:
    model, _, extrapolation = make(radius=1e-30)
    with extrapolation.shifted():
        loss(model).backward()
    model.head.weight.grad.fill_(3e38)  # whose squares are not
    extrapolation.update()
    assert "head.weight" in moved(model, extrapolation)


# --- with other passes ----------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "other",
    [
        SparseBackward(drop=0.5, schedule="constant", when="always"),
        SliceOut(rate=0.5, schedule="constant", when="always"),
    ],
)
def test_models_with_other_passes(other: Any, direction: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    x, y = torch.randn(16, 6), torch.randint(4, (16,))
    model = ecograph.optimize(model, example_inputs=x, passes=[other])
    optimizer = Adam(model.parameters(), lr=0.01)
    extrapolation = Extrapolation(model, optimizer, radius=0.05, direction=direction)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        before = bits(model)
        with extrapolation.shifted():
            found = F.cross_entropy(model(x), y)
            found.backward()
        assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
        extrapolation.update()
        optimizer.step()
        losses.append(found.item())
    assert losses[-1] < losses[0] / 2
    if direction == "past":
        zeros = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.all()]
        assert zeros and set(moved(model, extrapolation)) <= {name for name, _ in model.named_parameters()}


# --- how long, and state --------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_steps(direction: Any) -> None:
    model, optimizer, extrapolation = make(direction, steps=3)
    found = []
    for _ in range(5):
        found.append(bool(moved(model, extrapolation)))
        step(model, optimizer, extrapolation)
    assert found == [direction == "noise", True, True, False, False]
    assert not extrapolation.active and not extrapolation.state_dict()["gradients"]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_stop(direction: Any) -> None:
    model, optimizer, extrapolation = make(direction)
    step(model, optimizer, extrapolation)
    extrapolation.stop()
    step(model, optimizer, extrapolation)
    assert not moved(model, extrapolation) and not extrapolation.active


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("steps", [None, 3, 5])
def test_resumed_training_is_the_same_bit_for_bit(direction: Any, steps: int | None) -> None:
    model, optimizer, extrapolation = make(direction, steps=steps)
    for seed in range(4):
        step(model, optimizer, extrapolation, seed)
    file = io.BytesIO()
    state = extrapolation.state_dict()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "extrapolation": state}, file)
    for seed in range(4, 8):
        step(model, optimizer, extrapolation, seed)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other, again, resumed = make(direction, steps=steps)
    step(other, again, resumed, 9)  # whatever was there before
    other.load_state_dict(loaded["model"])
    again.load_state_dict(loaded["optimizer"])
    resumed.load_state_dict(loaded["extrapolation"])
    for seed in range(4, 8):
        step(other, again, resumed, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_state_does_not_change_with_training() -> None:
    model, optimizer, extrapolation = make()
    step(model, optimizer, extrapolation)
    state = extrapolation.state_dict()
    before = copy.deepcopy(state)
    extrapolation.load_state_dict(state)
    step(model, optimizer, extrapolation, 1)
    assert all(torch.equal(state["gradients"][i], before["gradients"][i]) for i in before["gradients"])


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: _without(s, "step"), r"not the state of an Extrapolation: \['step'\] missing"),
        (lambda s: {**s, "direction": "noise"}, "direction='past', but the state is of 'noise': use the same"),
        (lambda s: {**s, "gradients": {0: torch.ones(3)}}, r"of shape \(3,\) for parameter 0 .* has the shape \(8, 3"),
        (lambda s: {**s, "gradients": {99: torch.ones(3)}}, "parameter 99 of the optimizer, which is not trained"),
    ],
)
def test_states_that_do_not_fit(change: Callable[[dict[str, Any]], dict[str, Any]], said: str) -> None:
    _, _, extrapolation = make()
    with pytest.raises(ValueError, match=said):
        extrapolation.load_state_dict(change(extrapolation.state_dict()))


# --- what is refused ------------------------------------------------------------------------------


def test_steps_that_would_go_wrong_without_a_word() -> None:
    model, optimizer, extrapolation = make()
    with extrapolation.shifted():
        loss(model).backward()
        before = bits(model)
        with pytest.raises(RuntimeError, match=r"optimizer.step\(\) after the block"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="inside shifted"), extrapolation.shifted():
            pass
    with pytest.raises(RuntimeError, match=r"extrapolation.update\(\) before optimizer.step\(\)"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), bits(model).values(), strict=True))
    extrapolation.update()
    optimizer.step()
    optimizer.step()  # a second step with the same gradients is nobody's business here


def test_a_backward_after_the_block_is_an_error() -> None:
    model, optimizer, extrapolation = make()
    step(model, optimizer, extrapolation)
    with extrapolation.shifted():
        found = loss(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"radius": -1}, "radius=-1"),
        ({"direction": "up"}, "direction='up'"),
        ({"seed": -1}, "seed=-1"),
        ({"steps": 0.5}, "steps=0.5: give a whole number"),
        ({"optimizer": "SGD"}, "optimizer is a str, not a torch.optim.Optimizer"),
        ({"model": 1}, "model is a int, not a torch.nn.Module"),
    ],
)
def test_arguments_out_of_range(change: dict[str, Any], said: str) -> None:
    model = nn.Linear(2, 2)
    arguments = {"model": model, "optimizer": SGD(model.parameters(), lr=0.1), "radius": 0.1, **change}
    with pytest.raises(ValueError, match=said):
        Extrapolation(arguments.pop("model"), arguments.pop("optimizer"), **arguments)


def test_optimizers_that_compute_gradients_themselves() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="LBFGS .* use another optimizer"):
        Extrapolation(model, LBFGS(model.parameters()), radius=0.1)


def test_fsdp_of_the_first_generation() -> None:
    class FullyShardedDataParallel(nn.Linear):  # the name is asked for; the real one needs a process group
        pass

    model = FullyShardedDataParallel(2, 2)
    with pytest.raises(ValueError, match="use fully_shard"):
        Extrapolation(model, SGD(model.parameters(), lr=0.1), radius=0.1)


def test_an_optimizer_keeps_nothing_alive() -> None:
    model, optimizer, extrapolation = make()
    step(model, optimizer, extrapolation)
    found = weakref.ref(extrapolation)
    copied = copy.deepcopy(optimizer)
    del extrapolation
    gc.collect()
    assert found() is None
    optimizer.step()
    copied.step()
