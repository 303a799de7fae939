"""What a training will cost, before it is run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

import ecograph
from ecograph import TrainingLoop
from ecograph.cost.estimate import estimate, plan_run
from ecograph.loop.planned import called_with
from ecograph.passes import GradSamp, SliceOut, SparseBackward


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.calls = 0

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls += 1
        x = x if y is None else x + y
        return self.last(F.relu(self.hidden(F.relu(self.first(x)))))


def loader(count: int = 100, batch: int = 16) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(count, 8), torch.randint(4, (count,))), batch, shuffle=True)


def adam(model: nn.Module) -> optim.Optimizer:
    return optim.AdamW(model.parameters(), lr=1e-3)


def test_it_is_a_step_times_the_steps() -> None:
    net = Net()
    run = TrainingLoop(epochs=5, accumulate=3).estimate(net, adam(net), F.cross_entropy, loader())
    targets = torch.zeros(16, dtype=torch.long)
    step = estimate(net, torch.randn(16, 8), loss=lambda out: F.cross_entropy(out, targets), optimizer=optim.AdamW)
    by_hand = plan_run(step, epochs=5, batches_per_epoch=7, accumulate=3)
    assert (run.epochs, run.batches, run.steps) == (5, 7, 3)
    assert run.before.flops == by_hand.before.flops > 0
    assert run.before.bytes == by_hand.before.bytes
    assert run.before.seconds == pytest.approx(by_hand.before.seconds)
    assert run.after == run.before


def test_the_schedule_and_skipped_epochs_are_in_it() -> None:
    passes = [
        SparseBackward(0.5, schedule="bar", when="always", skip_first=False, min_channels=8, align=1),
        GradSamp(every=4),
    ]
    net = ecograph.optimize(Net(), example_inputs=torch.randn(16, 8), passes=passes[:1])
    run = TrainingLoop(epochs=8, passes=passes).estimate(net, adam(net), F.cross_entropy, loader())
    assert run.skipped == 2 and run.trained == 6
    # Two of three layers, a backward of two products each but for the first, which has no grad_input.
    sparse = {"first": 8 * 32, "hidden": 2 * 32 * 32}
    plain = 2 * 16 * (2 * 8 * 32 + 3 * 32 * 32 + 3 * 32 * 4)
    assert run.epoch_before.flops == 7 * plain
    drops = [0.5 * (epoch >= 4) for epoch in range(8) if epoch not in (3, 7)]
    saved = sum(2 * 16 * work * drop for work in sparse.values() for drop in drops) / len(drops)
    assert run.epoch_after.flops == 7 * (plain - saved)


@pytest.mark.parametrize("pass_", [SparseBackward(0.5, when="always"), SliceOut(0.5, when="always")])
def test_it_leaves_no_trace(pass_: Any) -> None:
    torch.manual_seed(0)
    net = ecograph.optimize(Net(), example_inputs=torch.randn(16, 8), passes=[pass_])
    optimizer, data = adam(net), loader()
    twin = copy.deepcopy(net)
    loop = TrainingLoop(epochs=3, passes=[pass_], progress=False)
    explained, random = str(ecograph.explain(net)), torch.get_rng_state()
    loop.estimate(net, optimizer, F.cross_entropy, data)
    assert torch.equal(torch.get_rng_state(), random)
    assert not optimizer.state and net.calls == twin.calls == 0
    assert str(ecograph.explain(net)) == explained
    loop.run(net, optimizer, F.cross_entropy, data)
    torch.set_rng_state(random)
    loop.run(twin, adam(twin), F.cross_entropy, data)
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


X, Y, T = torch.randn(4, 8), torch.randn(4, 8), torch.randint(4, (4,))


@pytest.mark.parametrize(
    ("kind", "batch", "args", "kwargs"),
    [
        ("pair", (X, T), (X,), {}),
        ("pair", [X, T], (X,), {}),
        ("args", ((X, Y), T), (X, Y), {}),
        ("kwargs", ({"x": X, "y": Y}, T), (), {"x": X, "y": Y}),
        ("dict", {"x": X, "y": Y}, (), {"x": X, "y": Y}),
    ],
)
def test_a_model_is_called_as_the_loop_calls_it(kind: Any, batch: Any, args: Any, kwargs: Any) -> None:
    assert str(called_with(batch, kind)) == str((args, kwargs))
    net = Net()
    loss = (lambda out, batch: out.square().mean()) if kind == "dict" else F.cross_entropy
    run = TrainingLoop(epochs=1, batch=kind).estimate(net, adam(net), loss, [batch] * 3)
    assert run.batches == 3 and run.before.flops > 0


@pytest.mark.parametrize(
    ("kind", "batch", "match"),
    [
        ("pair", {"x": X}, 'TrainingLoop\\(batch="dict"\\)'),
        ("pair", (X, Y, T), "a batch is 3 parts"),
        ("args", (X, T), "the inputs of a batch are a Tensor"),
    ],
)
def test_batches_that_are_something_else(kind: Any, batch: Any, match: str) -> None:
    net = Net()
    with pytest.raises(ValueError, match=match):
        TrainingLoop(epochs=1, batch=kind).estimate(net, adam(net), F.cross_entropy, [batch])


class Stream:
    def __iter__(self) -> Iterator[Any]:
        return iter([(X, T)])


def test_a_stream_is_as_long_as_it_is_said() -> None:
    net = Net()
    loop = TrainingLoop(epochs=2)
    with pytest.raises(ValueError, match="give batches_per_epoch"):
        loop.estimate(net, adam(net), F.cross_entropy, Stream())
    run = loop.estimate(net, adam(net), F.cross_entropy, Stream(), batches_per_epoch=10)
    assert run.steps == 10
    with pytest.raises(ValueError, match="batches_per_epoch=0: give a whole number"):
        loop.estimate(net, adam(net), F.cross_entropy, Stream(), batches_per_epoch=0)


def test_on_another_device_with_money() -> None:
    net = Net()
    options: dict[str, Any] = {"device": "t4", "grid": 50, "price": 0.4, "currency": "EUR"}
    run = TrainingLoop(epochs=2, amp="fp16").estimate(net, adam(net), F.cross_entropy, loader(), **options)
    assert run.estimate.device.name == "t4" and run.estimate.source == "modelled:t4, from datasheets"
    after = run.footprint_after
    assert after.cost == pytest.approx(after.joules / 3.6e6 * 0.4)
    assert after.co2_grams == pytest.approx(after.joules / 3.6e6 * 50)
    with pytest.raises(ValueError, match="device 'abacus' is not known"):
        TrainingLoop(epochs=2).estimate(net, adam(net), F.cross_entropy, loader(), device="abacus")
