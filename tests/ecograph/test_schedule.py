from __future__ import annotations

import copy
import io
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ecograph
from ecograph.passes import SparseBackward
from ecograph.record import records
from ecograph.schedule import Rate


def sparse_net(schedule: str = "alternate", drop: float = 0.8) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    options = SparseBackward(drop, schedule=schedule, when="always", min_channels=1)
    return ecograph.optimize(net, passes=[options])


def rate_of(model: nn.Module) -> Rate:
    (rate,) = records(model)[0].rates
    return rate


def rates(model: nn.Module, steps: int, **plan: Any) -> list[float]:
    """The rate in force at each step of a training with a Scheduler."""
    scheduler = ecograph.Scheduler(model, **plan)
    found = []
    for _ in range(steps):
        found.append(round(rate_of(model).now, 4))
        scheduler.step()
    return found


#: schedule, arguments, the rate at each step, with drop 0.8
BY_EPOCH: list[tuple[str, dict[str, Any], list[float]]] = [
    ("alternate", {"epochs": 4, "steps_per_epoch": 2}, [0, 0, 0.8, 0.8, 0, 0, 0.8, 0.8]),
    ("alternate", {"epochs": 3, "steps_per_epoch": 1}, [0, 0.8, 0]),
    ("constant", {"epochs": 2, "steps_per_epoch": 2}, [0.8, 0.8, 0.8, 0.8]),
    ("linear", {"epochs": 5, "steps_per_epoch": 1}, [0, 0.2, 0.4, 0.6, 0.8]),
    ("linear", {"epochs": 1, "steps_per_epoch": 2}, [0, 0]),
    ("cosine", {"epochs": 5, "steps_per_epoch": 1}, [0, 0.1172, 0.4, 0.6828, 0.8]),
    ("bar", {"epochs": 4, "steps_per_epoch": 1}, [0, 0, 0.8, 0.8]),
    ("bar", {"epochs": 5, "steps_per_epoch": 1}, [0, 0, 0, 0.8, 0.8]),
    (
        "constant",
        {"epochs": 4, "steps_per_epoch": 2, "warmup": 1, "tail": 1},
        [0, 0, 0.8, 0.8, 0.8, 0.8, 0, 0],
    ),
    ("alternate", {"epochs": 5, "steps_per_epoch": 1, "warmup": 1}, [0, 0, 0.8, 0, 0.8]),
    ("alternate", {"epochs": 5, "steps_per_epoch": 1, "tail": 2}, [0, 0.8, 0, 0, 0]),
    ("linear", {"epochs": 5, "steps_per_epoch": 1, "warmup": 1, "tail": 1}, [0, 0, 0.4, 0.8, 0]),
    ("constant", {"epochs": 2, "steps_per_epoch": 1, "warmup": 1, "tail": 1}, [0, 0]),
    # steps beyond the plan belong to its last epoch
    ("alternate", {"epochs": 2, "steps_per_epoch": 1}, [0, 0.8, 0.8, 0.8]),
    ("constant", {"epochs": 2, "steps_per_epoch": 1, "tail": 1}, [0.8, 0, 0]),
]
BY_ITERATION: list[tuple[str, dict[str, Any], list[float]]] = [
    ("alternate", {"epochs": 2, "steps_per_epoch": 3}, [0, 0.8, 0, 0.8, 0, 0.8]),
    ("alternate", {"epochs": 1, "steps_per_epoch": 5, "period": 5}, [0, 0.8, 0, 0.8, 0]),
    ("constant", {"epochs": 1, "steps_per_epoch": 3}, [0.8, 0.8, 0.8]),
    ("linear", {"epochs": 2, "steps_per_epoch": 5, "period": 3}, [0, 0.4, 0.8, 0, 0.4, 0.8, 0, 0.4, 0.8, 0]),
    ("cosine", {"epochs": 1, "steps_per_epoch": 6, "period": 3}, [0, 0.4, 0.8, 0, 0.4, 0.8]),
    ("bar", {"epochs": 1, "steps_per_epoch": 5, "period": 4}, [0, 0, 0.8, 0.8, 0]),
    ("bar", {"epochs": 2, "steps_per_epoch": 10}, [0, 0, 0, 0, 0, 0.8, 0.8, 0.8, 0.8, 0.8] * 2),
    ("alternate", {"epochs": 3, "steps_per_epoch": 3, "warmup": 1, "tail": 1}, [0, 0, 0, 0, 0.8, 0, 0, 0, 0]),
    ("linear", {"epochs": 2, "steps_per_epoch": 4, "period": 3, "warmup": 1}, [0, 0, 0, 0, 0, 0.4, 0.8, 0]),
]


@pytest.mark.parametrize(("schedule", "plan", "expected"), BY_EPOCH)
def test_schedules_by_epoch(schedule: str, plan: dict[str, Any], expected: list[float]) -> None:
    assert rates(sparse_net(schedule), len(expected), **plan) == expected


@pytest.mark.parametrize(("schedule", "plan", "expected"), BY_ITERATION)
def test_schedules_by_iteration(schedule: str, plan: dict[str, Any], expected: list[float]) -> None:
    assert rates(sparse_net(schedule), len(expected), by="iteration", **plan) == expected


SELF_TICKING = {
    "alternate": [0, 0.8] * 6,
    "constant": [0.8] * 12,
    "linear": [round(0.8 * i / 9, 4) for i in range(10)] + [0, 0.0889],
    "bar": [0] * 5 + [0.8] * 5 + [0] * 2,
}


@pytest.mark.parametrize("schedule", SELF_TICKING)
def test_without_a_scheduler_the_rate_ticks_with_training_forwards(schedule: str) -> None:
    model = sparse_net(schedule)
    found = []
    for _ in range(12):
        model(torch.randn(2, 6))
        found.append(round(rate_of(model).now, 4))
        model.eval()(torch.randn(2, 6))
        model.train()
        with torch.no_grad():
            model(torch.randn(2, 6))
        assert round(rate_of(model).now, 4) == found[-1], "only training forwards tick"
    assert found == SELF_TICKING[schedule]


def sparse_rows(model: nn.Module) -> int:
    """How many channels of the middle layer the last backward kept."""
    return int(model[2].bias.grad.count_nonzero())


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, batch: Tensor) -> int:
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    return sparse_rows(getattr(model, "module", getattr(model, "_orig_mod", model)))


def test_what_the_rate_says_is_what_the_backward_does() -> None:
    model = sparse_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = ecograph.Scheduler(model, epochs=3, steps_per_epoch=2)
    kept = [train_step(model, optimizer, scheduler, torch.randn(64, 6)) for _ in range(6)]
    assert [k == 4 for k in kept] == [False, False, True, True, False, False]
    assert scheduler.last_step == 6


def test_state_dict_is_json_and_round_trips() -> None:
    model = sparse_net("linear")
    scheduler = ecograph.Scheduler(model, epochs=5, steps_per_epoch=2, warmup=1, by="iteration", period=4)
    for _ in range(5):
        scheduler.step()
    state = json.loads(json.dumps(scheduler.state_dict()))
    now = rate_of(model).now
    other = sparse_net("linear")
    fresh = ecograph.Scheduler(other, epochs=1, steps_per_epoch=1)
    assert rate_of(other).now != now
    fresh.load_state_dict(state)
    assert fresh.state_dict() == scheduler.state_dict() == state
    assert rate_of(other).now == now
    assert records(other)[0].mixes == records(model)[0].mixes, "explain goes by the loaded plan"
    for _ in range(7):
        scheduler.step()
        fresh.step()
        assert rate_of(other).now == rate_of(model).now


@pytest.mark.parametrize("schedule", ["alternate", "linear", "cosine"])
@pytest.mark.parametrize("by", ["epoch", "iteration"])
@pytest.mark.parametrize("select", ["topk", "random"])
def test_resuming_is_bit_for_bit_the_uninterrupted_run(schedule: str, by: str, select: str) -> None:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, ecograph.Scheduler]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.Dropout(0.1), nn.Linear(20, 3))
        options = SparseBackward(0.8, schedule=schedule, select=select, when="always", min_channels=1)
        model = ecograph.optimize(net, passes=[options])
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return model, optimizer, ecograph.Scheduler(model, epochs=3, steps_per_epoch=2, by=by)

    batches = torch.randn(6, 8, 6)
    model, optimizer, scheduler = build()
    torch.manual_seed(7)
    for batch in batches:
        train_step(model, optimizer, scheduler, batch)
    straight = copy.deepcopy(model.state_dict())

    model, optimizer, scheduler = build()
    torch.manual_seed(7)
    for batch in batches[:3]:
        train_step(model, optimizer, scheduler, batch)
    file = io.BytesIO()
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    torch.save({**{k: v.state_dict() for k, v in parts.items()}, "rng": torch.get_rng_state()}, file)
    file.seek(0)
    saved = torch.load(file)
    torch.manual_seed(99)
    model, optimizer, scheduler = build()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    torch.set_rng_state(saved["rng"])
    for batch in batches[3:]:
        train_step(model, optimizer, scheduler, batch)
    for name, value in model.state_dict().items():
        assert torch.equal(value, straight[name]), name


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrap", [Wrapper, lambda m: torch.compile(m, backend="aot_eager")], ids=["module", "compiled"])
def test_a_scheduler_reaches_through_wrappers(wrap: Any) -> None:
    torch._dynamo.reset()
    wrapped = wrap(sparse_net())
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.01)
    scheduler = ecograph.Scheduler(wrapped, epochs=4, steps_per_epoch=1)
    kept = [train_step(wrapped, optimizer, scheduler, torch.randn(64, 6)) for _ in range(4)]
    assert [k == 4 for k in kept] == [False, True, False, True]


def test_several_optimized_parts_of_one_model_are_scheduled_together() -> None:
    model = nn.ModuleList([sparse_net(), sparse_net(drop=0.5)])
    scheduler = ecograph.Scheduler(model, epochs=2, steps_per_epoch=1)
    assert [rate_of(part).now for part in model] == [0, 0]
    scheduler.step()
    assert [rate_of(part).now for part in model] == [0.8, 0.5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": 0}, "epochs=0.*1 or more"),
        ({"epochs": 1.5}, "epochs=1.5.*whole number"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"period": 1}, "period=1.*2 or more"),
        ({"warmup": -1}, "warmup=-1.*0 or more"),
        ({"tail": "1"}, "tail='1'"),
        ({"by": "step"}, "by='step'.*'epoch' or 'iteration'"),
        ({"warmup": 2, "tail": 2}, "warmup=2 and tail=2.*epochs=3"),
        ({"epochs": True}, "epochs=True"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ecograph.Scheduler(sparse_net(), **{"epochs": 3, "steps_per_epoch": 2, **arguments})


def test_a_scheduler_needs_an_optimized_model() -> None:
    with pytest.raises(ValueError, match=r"Linear is not optimized: call ecograph.optimize\(model\) first"):
        ecograph.Scheduler(nn.Linear(2, 2), epochs=1, steps_per_epoch=1)


def test_a_foreign_state_is_refused_and_changes_nothing() -> None:
    model = sparse_net()
    scheduler = ecograph.Scheduler(model, epochs=3, steps_per_epoch=2)
    before = scheduler.state_dict()
    for state in ({}, {"last_epoch": 3}, {k: v for k, v in before.items() if k != "by"}):
        with pytest.raises(ValueError, match="not the state of an ecograph.Scheduler"):
            scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


def test_a_rate_of_two_values_is_one_bool() -> None:
    """So a compiler that specializes on it compiles twice."""
    for schedule in ("alternate", "bar", "constant"):
        rate = Rate(0.8, schedule)
        states = set()
        for value in (0.8, 0.0, 0.8, 0.0):
            rate.set(value)
            states.add((rate._on, rate._value))
        assert states == {(True, 0.8), (False, 0.8)}


def test_a_scheduler_tells_the_rate_which_step_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """For passes whose steps differ by more than the rate."""
    moves: list[int] = []
    monkeypatch.setattr(Rate, "move_to", lambda self, step: moves.append(step))
    model = sparse_net()
    scheduler = ecograph.Scheduler(model, epochs=3, steps_per_epoch=2)
    scheduler.step()
    scheduler.step()
    ecograph.Scheduler(model, epochs=3, steps_per_epoch=2).load_state_dict({**scheduler.state_dict(), "steps": 5})
    assert moves == [0, 1, 2, 0, 5]
