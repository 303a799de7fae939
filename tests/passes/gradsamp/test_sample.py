"""One skipped epoch, on weights whose last change is known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ecograph
from ecograph.passes import GradSamp
from ecograph.passes.gradsamp import EpochSampler

Change = Callable[[str, Tensor], Tensor]


def skip(model: nn.Module, change: Change, epoch: int = 2, wrapped: nn.Module | None = None, **options: Any) -> None:
    """Changes the weights as an epoch would, and skips the next one."""
    sampler = EpochSampler(GradSamp(3, warmup=epoch - 2, **options))
    trained = model if wrapped is None else wrapped
    assert not sampler.on_epoch_start(trained, epoch - 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(change(name, parameter))
    assert sampler.on_epoch_start(trained, epoch)


class Tensors(nn.Module):
    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor))


def random_change(scale: float = 0.1, mean: float = 0.05) -> Change:
    generator = torch.Generator().manual_seed(7)
    return lambda name, p: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) * scale + mean


# --- exact values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_extrapolation_is_exact(dtype: torch.dtype) -> None:
    model = Tensors(a=torch.randn(5, 3).to(dtype), b=torch.randn(4).to(dtype), c=torch.randn(()).to(dtype))
    thetas = [copy.deepcopy(model.state_dict())]

    def change(name: str, parameter: Tensor) -> Tensor:
        return torch.randn_like(parameter) * 0.1

    sampler = EpochSampler(GradSamp(3, mode="extrapolate"))
    sampler.on_epoch_start(model, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(change(name, parameter))
    thetas.append(copy.deepcopy(model.state_dict()))
    sampler.on_epoch_start(model, 2)
    wide = np.float64 if dtype == torch.float64 else np.float32
    for name, parameter in model.named_parameters():
        before, after = (theta[name].double().numpy().astype(wide) for theta in thetas)
        expected = torch.from_numpy(np.asarray(after + (after - before))).to(dtype)
        assert parameter.dtype == dtype and torch.equal(parameter, expected)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "model", "element"])
def test_a_uniform_change_has_no_spread_and_is_repeated(granularity: Any) -> None:
    model = Tensors(a=torch.arange(12.0).view(4, 3), b=torch.ones(()))
    skip(model, lambda name, parameter: torch.full_like(parameter, 0.25), granularity=granularity)
    assert torch.equal(model.a, torch.arange(12.0).view(4, 3) + 0.5)
    assert model.b.item() == 1.5


def test_channels_that_change_uniformly_are_repeated_one_by_one() -> None:
    model = Tensors(a=torch.zeros(3, 2, 2))
    per_channel = torch.tensor([0.5, -1.0, 2.0]).view(3, 1, 1)
    skip(model, lambda name, parameter: per_channel.expand_as(parameter), granularity="channel")
    assert torch.equal(model.a, 2 * per_channel.expand(3, 2, 2))


def test_mode_none_moves_nothing() -> None:
    start = torch.randn(5)
    model = Tensors(a=start.clone())
    skip(model, lambda name, parameter: torch.ones_like(parameter), mode="none")
    assert torch.equal(model.a, start + 1)


# --- the distribution -----------------------------------------------------------------------------


def moved(change: Tensor, **options: Any) -> Tensor:
    """Returns by how much a skipped epoch moves zeros that have just changed by ``change``."""
    model = Tensors(a=torch.zeros_like(change))
    skip(model, lambda name, parameter: change, **options)
    return model.a.detach() - change


def test_a_tensor_moves_by_its_mean_and_spread() -> None:
    e = torch.rand(500, 400, dtype=torch.float64) * 0.6 - 0.1  # uniform, and so nothing like what is drawn
    step = moved(e)
    assert float(step.mean()) == pytest.approx(0.2, abs=0.002)
    assert float(step.std()) == pytest.approx(0.6 / 12**0.5, rel=0.01)
    z = (step - 0.2) / (0.6 / 12**0.5)
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=0.1)  # of a uniform distribution it is 1.8
    assert float((z * (e - 0.2)).mean()) == pytest.approx(0, abs=0.002)


def test_elements_keep_their_direction() -> None:
    e = torch.rand(500, 400, dtype=torch.float64) * 0.6 - 0.1
    rest = moved(e, granularity="element") - e
    assert float(rest.mean()) == pytest.approx(0, abs=0.002)
    assert float(rest.std()) == pytest.approx(0.6 / 12**0.5, rel=0.01)
    assert float((rest * (e - 0.2)).mean()) == pytest.approx(0, abs=0.002)


def test_channels_have_their_own_mean_and_spread() -> None:
    means, spreads = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.1, 0.4, 0.01])
    e = means.view(3, 1, 1) + spreads.view(3, 1, 1) * torch.randn(3, 200, 200)
    step = moved(e, granularity="channel").flatten(1)
    torch.testing.assert_close(step.mean(1), means, atol=0.01, rtol=0)
    torch.testing.assert_close(step.std(1), spreads, atol=0, rtol=0.02)


def test_the_model_has_one_mean_and_spread() -> None:
    model = Tensors(a=torch.zeros(20000), b=torch.zeros(100, 600))
    changes = {"a": torch.full((20000,), 1.0), "b": torch.full((100, 600), -1.0)}
    skip(model, lambda name, parameter: changes[name], granularity="model")
    mean = (20000 - 60000) / 80000
    for name, parameter in model.named_parameters():
        step = parameter.detach() - changes[name]
        assert float(step.mean()) == pytest.approx(mean, abs=0.02)
        assert float(step.std()) == pytest.approx((1 - mean**2) ** 0.5, rel=0.02)


@pytest.mark.parametrize("granularity", ["tensor", "element"])
def test_over_many_seeds_every_element_has_that_distribution(granularity: str) -> None:
    e = torch.tensor([[0.1, -0.2, 0.4], [0.0, 0.3, 0.6]])
    steps = torch.stack([moved(e, granularity=granularity, seed=seed) for seed in range(1500)])
    sigma = float(np.std(e.numpy()))
    expected = e if granularity == "element" else torch.full_like(e, float(np.mean(e.numpy())))
    error = 4 * sigma / 1500**0.5
    torch.testing.assert_close(steps.mean(0), expected, atol=error, rtol=0)
    torch.testing.assert_close(steps.std(0), torch.full_like(e, sigma), atol=error, rtol=0)
    correlations = torch.corrcoef(steps.flatten(1).T) - torch.eye(6)
    assert float(correlations.abs().max()) < 0.12


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_rounded_once(dtype: torch.dtype) -> None:
    """The same numbers in float32 go through the same, and are rounded in the end."""
    start = torch.randn(300, 40).to(dtype)
    change = (torch.randn(300, 40) * 0.1).to(dtype)
    low, high = Tensors(a=start.clone()), Tensors(a=start.float())
    after = (start + change).to(dtype)
    skip(low, lambda name, parameter: change)
    skip(high, lambda name, parameter: after.float() - start.float())
    assert low.a.dtype == dtype
    torch.testing.assert_close(low.a.float(), high.a.to(dtype).float(), rtol=0, atol=0)


def test_double_precision_stays_double() -> None:
    e = torch.full((1000,), 1e-9, dtype=torch.float64)
    e[::2] = -1e-9
    model = Tensors(a=torch.ones(1000, dtype=torch.float64))
    skip(model, lambda name, parameter: e)
    step = model.a.detach() - (1 + e)
    assert float(step.std()) == pytest.approx(1e-9, rel=0.1)  # in float32, 1 + 1e-9 is 1


def test_complex_parameters_move_as_real_and_imaginary_parts() -> None:
    e = torch.complex(torch.full((300, 300), 0.5), torch.randn(300, 300) * 0.1 + 0.5)
    model = Tensors(a=torch.zeros(300, 300, dtype=torch.complex64))
    skip(model, lambda name, parameter: e)
    step = torch.view_as_real(model.a.detach() - e)
    sigma = float(torch.view_as_real(e).std())
    assert float(step.mean()) == pytest.approx(0.5, abs=0.005)
    assert step.std((0, 1)).tolist() == pytest.approx([sigma, sigma], rel=0.02)


# --- what is sampled, and what is not ---------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.frozen(self.norm(self.embed(x))))


def test_tied_once_frozen_not_buffers_and_optimizer_not() -> None:
    model = Tied()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sampler = EpochSampler(GradSamp(3, mode="extrapolate"))
    starts: list[dict[str, Tensor]] = []
    for epoch in range(2):
        sampler.on_epoch_start(model)
        starts.append(copy.deepcopy(model.state_dict()))
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(torch.arange(7)), torch.arange(7)).backward()
            optimizer.step()
        assert (sampler.state_dict()["snapshot"] is None) is (epoch == 0)
    kept = sampler.state_dict()["snapshot"]
    assert sorted(kept) == ["embed.weight", "norm.bias", "norm.weight"]
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert sampler.on_epoch_start(model)
    for name, tensor in model.state_dict().items():
        if name.startswith("frozen") or "running" in name or "num_batches" in name:
            assert torch.equal(tensor, before[name])
        else:  # twice the weight's change if a tied one moved twice
            assert torch.equal(tensor, before[name] + (before[name] - starts[1][name])), name
    assert model.head.weight is model.embed.weight
    for number, values in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, state["state"][number][key]) for key, value in values.items())
    assert all(torch.equal(p.grad, gradients[n]) for n, p in model.named_parameters() if p.grad is not None)


def test_what_did_not_change_or_is_not_finite_stays_and_is_told_once() -> None:
    tensors = {name: torch.zeros(3, 2) for name in ("still", "nan", "infinite", "well")}
    tensors["nan"][0, 0] = float("nan")
    model = Tensors(**tensors)
    changes = {"still": 0.0, "nan": 1.0, "infinite": float("inf"), "well": 2.0}
    sampler = EpochSampler(GradSamp(3, granularity="model"))

    def epochs() -> None:
        for _ in range(3):
            if not sampler.on_epoch_start(model):
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        parameter.add_(changes[name])

    message = r"leaves parameters as they are: nan \(its change is not finite\), infinite \(its"
    with pytest.warns(UserWarning, match=message) as caught:
        epochs()
    assert len(caught) == 1
    assert sampler.left["still"] == "did not change" and list(sampler.left) == ["still", "nan", "infinite"]
    assert torch.equal(model.still, torch.zeros(3, 2))
    assert bool(model.infinite.isinf().all())
    assert int(model.nan.isnan().sum()) == 1 and model.nan[1, 1].item() == 2
    assert torch.equal(model.well, torch.full((3, 2), 6.0))  # the others are no part of the model's mean
    epochs()  # said once


def test_a_bias_that_a_batch_norm_cancels_is_nothing_to_warn_of() -> None:
    model = Tensors(bias=torch.zeros(3), weight=torch.zeros(3))
    skip(model, lambda name, parameter: torch.full_like(parameter, float(name == "weight")))
    assert torch.equal(model.bias, torch.zeros(3)) and torch.equal(model.weight, torch.full((3,), 2.0))


def test_an_epoch_that_changed_nothing_is_told() -> None:
    with pytest.warns(ecograph.NoEffectWarning, match="no parameter changed in epoch 2; is the learning rate 0"):
        skip(nn.Linear(3, 2), lambda name, parameter: torch.zeros_like(parameter))


def test_a_parameter_that_was_not_there_stays() -> None:
    model = Tensors(a=torch.zeros(3), b=torch.zeros(3))
    model.b.requires_grad_(False)
    sampler = EpochSampler(GradSamp(3))
    sampler.on_epoch_start(model, 1)
    with torch.no_grad():
        model.a.add_(1)
    model.b.requires_grad_(True)
    model.a = nn.Parameter(torch.ones(5))
    with pytest.warns(UserWarning, match=r"a \(not there an epoch ago\), b \(not there an epoch ago\)"):
        sampler.on_epoch_start(model, 2)
    assert torch.equal(model.a, torch.ones(5)) and torch.equal(model.b, torch.zeros(3))


# --- in place, and whatever is around -----------------------------------------------------------------


def test_in_place_on_the_same_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    parameters = list(model.parameters())
    pointers = [parameter.data_ptr() for parameter in parameters]
    output = model(torch.randn(3, 4)).sum()
    versions = [parameter._version for parameter in parameters]
    skip(model, random_change())
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert [p.data_ptr() for p in parameters] == pointers
    assert all(p._version > version for p, version in zip(parameters, versions, strict=True))
    assert all(p.is_leaf and p.requires_grad and p.grad_fn is None for p in parameters)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()  # autograd sees that a graph from before is out of date
    model(torch.randn(3, 4)).sum().backward()


def test_memory_formats_are_kept_and_change_nothing() -> None:
    models = nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last)
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        skip(model, random_change())
    assert models[1].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(models[0].weight, models[1].weight)


@pytest.mark.parametrize("granularity", ["tensor", "channel", "model", "element"])
def test_the_copy_may_be_anywhere(granularity: str) -> None:
    models = nn.Linear(5, 3), nn.Linear(5, 3)
    models[1].load_state_dict(models[0].state_dict())
    for model, where in zip(models, ("device", "cpu"), strict=True):
        skip(model, random_change(), granularity=granularity, snapshot=where)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled in place": lambda model: model.compile(backend="eager") or model,
    "data parallel": nn.DataParallel,
    "compiled, then data parallel": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    "data parallel, then compiled": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


def nested() -> nn.Module:
    torch.manual_seed(5)
    model = nn.Module()
    model.module = nn.Linear(3, 4)  # a name that looks like a wrapper's
    model.rest = nn.Sequential(nn.Linear(4, 2))
    model.forward = lambda x: model.rest(model.module(x))  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_change_nothing(name: str) -> None:
    plain, model = nested(), nested()
    wrapped = WRAPPERS[name](model)
    skip(plain, random_change())
    skip(model, random_change(), wrapped=wrapped)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_a_part_that_is_compiled_changes_nothing() -> None:
    plain, model = nested(), nested()
    model.rest = torch.compile(model.rest, backend="eager")
    skip(plain, random_change())
    skip(model, random_change())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_a_compiled_model_computes_with_the_moved_weights() -> None:
    model = nn.Linear(3, 2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(4, 3)
    compiled(x)
    skip(model, random_change(), wrapped=compiled)  # type: ignore[arg-type]
    assert torch.equal(compiled(x), model(x))


def test_every_epoch_draws_anew() -> None:
    steps = []
    for epoch in (2, 3):
        model = nn.Linear(100, 100)
        with torch.no_grad():
            model.weight.zero_()
        skip(model, random_change(), epoch=epoch)
        steps.append(model.weight.detach().flatten())
    base = torch.zeros(100, 100) + random_change()("", torch.zeros(100, 100))
    drawn = torch.stack(steps) - base.flatten()
    assert abs(float(torch.corrcoef(drawn)[0, 1])) < 0.05
