"""Trainings equal ones that are written out by hand, in float64, from the formulas of the optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, AdamW, Optimizer

from ecograph.passes.extrapolation import Extrapolation

STEPS = 7
Weights = dict[str, Tensor]


class Quadratic(nn.Module):
    """``(w - target) A (w - target) / 2`` for targets that change from step to step, and a second parameter."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        root = torch.randn(5, 5, dtype=torch.float64, generator=generator)
        self.register_buffer("matrix", root @ root.T / 5)
        self.w = nn.Parameter(torch.randn(5, dtype=torch.float64, generator=generator))
        self.v = nn.Parameter(torch.randn(2, 3, dtype=torch.float64, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        away = self.w - x[:5]
        return away @ self.matrix @ away / 2 + (self.v - x[5:].view(2, 3)).pow(4).sum() / 20


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return F.cross_entropy(self.layers(x[:, None]), torch.arange(len(x)) % 6)


def batches(kind: type[nn.Module]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (11,) if kind is Quadratic else (5, 6, 6)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(STEPS)]


def sgd(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
    return w - 0.05 * g


def nesterov(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
    g = g + 0.01 * w
    state["m"] = 0.9 * state["m"] + g if "m" in state else g
    return w - 0.05 * (g + 0.9 * state["m"])


def adam(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * g * g
    return w - 0.02 * (state["m"] / (1 - 0.9**t)) / ((state["v"] / (1 - 0.99**t)).sqrt() + 1e-8)


def adamw(w: Tensor, g: Tensor, state: dict[str, Any]) -> Tensor:
    return adam(w * (1 - 0.02 * 0.1), g, state)


OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], Callable[..., Tensor]]] = {
    "sgd": (lambda p: SGD(p, lr=0.05), sgd),
    "nesterov": (lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01), nesterov),
    "adam": (lambda p: Adam(p, lr=0.02, betas=(0.9, 0.99)), adam),
    "adam, one by one": (lambda p: Adam(p, lr=0.02, betas=(0.9, 0.99), foreach=False), adam),
    "adam, fused": (lambda p: Adam(p, lr=0.02, betas=(0.9, 0.99), fused=True), adam),
    "adamw": (lambda p: AdamW(p, lr=0.02, betas=(0.9, 0.99), weight_decay=0.1), adamw),
}


def written_out(
    model: nn.Module,
    data: list[Tensor],
    rule: Callable[..., Tensor],
    radius: float,
    directions: list[Weights] | None = None,
) -> list[Weights]:
    """Returns the weights before each step and after the last; the direction is the past gradient if none are given."""
    w = {name: p.detach().clone() for name, p in model.named_parameters()}
    state: dict[str, dict[str, Any]] = {name: {} for name in w}
    direction = {name: torch.zeros_like(p) for name, p in w.items()}
    seen = [dict(w)]
    for step, x in enumerate(data):
        if directions is not None:
            direction = directions[step]
        ahead = {name: (w[name] - radius * direction[name]).requires_grad_() for name in w}
        gradients = torch.autograd.grad(functional_call(model, ahead, (x,)), list(ahead.values()))
        direction = dict(zip(w, gradients, strict=True))
        w = {name: rule(w[name], direction[name], state[name]) for name in w}
        seen.append(w)
    return seen


@pytest.mark.parametrize("kind", [Quadratic, Network])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("direction", ["past", "local", "noise"])
def test_equals_the_written_out_training(kind: type[nn.Module], name: str, direction: Any) -> None:
    make, rule = OPTIMIZERS[name]
    data, model = batches(kind), kind()
    optimizer = make(model.parameters())
    extrapolation = Extrapolation(model, optimizer, radius=0.08, direction=direction)
    weights, drawn = [], []
    for x in data:
        weights.append({n: p.detach().clone() for n, p in model.named_parameters()})
        optimizer.zero_grad()
        with extrapolation.shifted():
            drawn.append({n: (weights[-1][n] - p.detach()) / 0.08 for n, p in model.named_parameters()})
            model(x).backward()
        extrapolation.update()
        optimizer.step()
    weights.append({n: p.detach() for n, p in model.named_parameters()})
    expected = written_out(kind(), data, rule, 0.08, drawn if direction == "noise" else None)
    for found, wanted in zip(weights, expected, strict=True):
        for n in wanted:
            torch.testing.assert_close(found[n], wanted[n], rtol=1e-9, atol=1e-12)
    plain = written_out(kind(), data, rule, 0.0)[-1]
    assert not any(torch.allclose(plain[n], weights[-1][n], rtol=1e-6) for n in plain)
    if "adam" in name:
        assert {int(state["step"]) for state in optimizer.state.values()} == {STEPS}


@pytest.mark.parametrize("direction", ["past", "local", "noise"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_radius_zero_is_plain_training_bit_for_bit(name: str, direction: Any) -> None:
    results = []
    for radius in (None, 0.0):
        model = Network()
        optimizer = OPTIMIZERS[name][0](model.parameters())
        for x in batches(Network):
            optimizer.zero_grad()
            if radius is None:
                model(x).backward()
            else:
                extrapolation = Extrapolation(model, optimizer, radius=radius, direction=direction)
                with extrapolation.shifted():
                    model(x).backward()
                extrapolation.update()
            optimizer.step()
        results.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Saddle(nn.Module):
    """``x * y``, which x makes small and y makes large; the only solution is (0, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.y = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def distance(self) -> float:
        return float(torch.stack([self.x, self.y]).detach().norm())


@pytest.mark.parametrize("as_game", ["maximize", "negated gradient"])
def test_a_bilinear_saddle(as_game: str) -> None:
    """Plain descent-ascent spirals outwards by sqrt(1 + lr^2) each step; extrapolated from the past it comes in."""
    ends = {}
    for radius in (0.0, 0.2):
        game = Saddle()
        if as_game == "maximize":
            optimizer = SGD([{"params": [game.x]}, {"params": [game.y], "maximize": True}], lr=0.2)
        else:
            game.y.register_hook(torch.neg)
            optimizer = SGD(game.parameters(), lr=0.2)
        extrapolation = Extrapolation(game, optimizer, radius=radius)
        for _ in range(300):
            optimizer.zero_grad()
            with extrapolation.shifted():
                (game.x * game.y).backward()
            extrapolation.update()
            optimizer.step()
        ends[radius] = game.distance()
    assert ends[0.0] == pytest.approx(2**0.5 * 1.04**150)
    assert ends[0.2] < 0.01
