"""Against optimizers written by hand, which touch the elements of the slice and nothing else."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ecograph.passes.sliceout.update as update
from ecograph.analysis.layout import Segment
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.modules import REPLACEMENTS
from ecograph.passes.sliceout.take import Cut, put, take
from ecograph.passes.sliceout.update import attach, detach
from ecograph.schedule import Ticker


class Net(nn.Module):
    """Two layers with a sliced width between them, and a layer that is not sliced."""

    def __init__(self, schedule: str = "constant") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 12), nn.Linear(12, 8), nn.Linear(8, 2)
        self.double()
        rate = SliceRate(0.5, schedule, 1)
        slices = {
            "a": GroupSlice("a", 12, 1, rate, align=1, starts="any"),
            "b": GroupSlice("b", 4, 2, rate, align=1, starts="any"),
        }
        a, b = (Segment(12, "a", 1, 12, 1),), (Segment(8, "b", 1, 4, 2),)
        for layer, out, inp in ((self.first, a, None), (self.second, b, a), (self.last, None, b)):
            layer.sliced = SlicedLayer("fc", rate=rate, out=out, inp=inp, slices=slices, scaled=inp is not None)
            layer.__class__ = REPLACEMENTS[type(layer)]
        self.cuts = [
            (self.first.weight, (Cut(0, a, slices),)),
            (self.first.bias, (Cut(0, a, slices),)),
            (self.second.weight, (Cut(0, b, slices), Cut(1, a, slices))),
            (self.second.bias, (Cut(0, b, slices),)),
            (self.last.weight, (Cut(1, b, slices),)),
        ]
        self.rate = rate
        self.register_forward_pre_hook(Ticker([rate]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


@pytest.fixture
def net() -> Any:
    made = Net()
    attach(made.cuts, made.rate)
    yield made
    detach(made.rate)


def masks(net: Net) -> list[Tensor]:
    """1 in the slice in force, 0 outside; for parameters that are never cut all 1."""
    found = []
    cuts = {id(parameter): each for parameter, each in net.cuts}
    for parameter in net.parameters():
        mask = torch.ones_like(parameter)
        if id(parameter) in cuts:
            mask = torch.zeros_like(parameter)
            put(mask, cuts[id(parameter)], torch.ones_like(take(parameter, cuts[id(parameter)])))
        found.append(mask.detach())
    return found


Rule = Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]


def sgd(
    lr: float, momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Rule:
    def step(p: Tensor, g: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
        g = g + weight_decay * p
        if momentum:
            before = state.get("buf", torch.zeros_like(p))
            state["buf"] = g if t == 1 else momentum * before + (1 - dampening) * g
            g = g + momentum * state["buf"] if nesterov else state["buf"]
        return p - lr * g

    return step


def adam(lr: float, weight_decay: float, decoupled: bool, amsgrad: bool = False) -> Rule:
    def step(p: Tensor, g: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
        p = p * (1 - lr * weight_decay) if decoupled else p
        g = g if decoupled else g + weight_decay * p
        state["m"] = 0.9 * state.get("m", torch.zeros_like(p)) + 0.1 * g
        state["v"] = 0.999 * state.get("v", torch.zeros_like(p)) + 0.001 * g * g
        v = state["v"]
        if amsgrad:
            state["max"] = v = torch.maximum(state.get("max", torch.zeros_like(p)), v)
        return p - lr * (state["m"] / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    return step


OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], Rule]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}, sgd(0.1)),
    "SGD, weight decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.1}, sgd(0.1, weight_decay=0.1)),
    "SGD, momentum": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        sgd(0.1, 0.9, weight_decay=0.1),
    ),
    "SGD, dampening": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
        sgd(0.1, 0.9, 0.3),
    ),
    "SGD, nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        sgd(0.1, 0.9, weight_decay=0.1, nesterov=True),
    ),
    "Adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}, adam(0.01, 0.1, False)),
    "Adam, amsgrad": (
        torch.optim.Adam,
        {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
        adam(0.01, 0.1, False, True),
    ),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}, adam(0.01, 0.1, True)),
}
KERNELS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


class ByHand:
    """Applies a rule to the elements of the slice, element by element."""

    def __init__(self, net: Net, rule: Rule) -> None:
        self.net, self.rule, self.steps = net, rule, 0
        self.values = [p.detach().clone() for p in net.parameters()]
        self.states: list[dict[str, Tensor]] = [{} for _ in self.values]

    def step(self) -> None:
        """Before the optimizer's own step."""
        self.steps += 1
        for i, (parameter, mask) in enumerate(zip(self.net.parameters(), masks(self.net), strict=True)):
            before = self.states[i]
            state = dict(before)
            assert parameter.grad is not None
            value = self.rule(self.values[i], parameter.grad, state, self.steps)
            self.values[i] = torch.where(mask == 1, value, self.values[i])
            zero = torch.zeros_like(parameter.detach())
            self.states[i] = {key: torch.where(mask == 1, s, before.get(key, zero)) for key, s in state.items()}

    def check(self) -> None:
        for parameter, value in zip(self.net.parameters(), self.values, strict=True):
            torch.testing.assert_close(parameter.detach(), value)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_the_hand_written_optimizer(net: Net, name: str, kernel: str) -> None:
    cls, options, rule = OPTIMIZERS[name]
    optimizer = cls(net.parameters(), **options, **KERNELS[kernel])
    reference = ByHand(net, rule)
    starts = set()
    for _ in range(25):
        optimizer.zero_grad()
        net(torch.randn(4, 5).double()).square().sum().backward()
        starts.add((net.first.sliced.slices["a"].start, net.first.sliced.slices["b"].start))
        before = [(p.detach().clone(), mask) for p, mask in zip(net.parameters(), masks(net), strict=True)]
        reference.step()
        optimizer.step()
        reference.check()
        for parameter, (old, mask) in zip(net.parameters(), before, strict=True):
            assert torch.equal(parameter[mask == 0], old[mask == 0]), "bit for bit"
    assert len(starts) > 5


@pytest.mark.parametrize("cls", ["Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "Adam", "SGD"])
def test_what_lies_outside_stays_with_every_elementwise_optimizer(net: Net, cls: str) -> None:
    optimizer = getattr(torch.optim, cls)(net.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 5).double()).square().sum().backward()
        pairs = list(zip(net.parameters(), masks(net), strict=True))
        before = [
            [
                t.detach().clone()
                for t in (p, *optimizer.state[p].values())
                if isinstance(t, Tensor) and t.shape == p.shape
            ]
            for p, _ in pairs
        ]
        optimizer.step()
        for (parameter, mask), old in zip(pairs, before, strict=True):
            now = [t for t in (parameter, *optimizer.state[parameter].values()) if isinstance(t, Tensor)]
            now = [t.detach() for t in now if t.shape == parameter.shape]
            assert cls == "Rprop" or not torch.equal(now[0], old[0])
            for a, b in zip(now, old, strict=False):
                assert torch.equal(a[mask == 0], b[mask == 0])
    if cls == "Rprop":  # its state does not start at zero
        assert all((state["step_size"] > 0).all() for state in optimizer.state.values())


def test_gradients_of_several_forwards_are_of_one_slice(net: Net) -> None:
    cls, options, rule = OPTIMIZERS["SGD, momentum"]
    optimizer, reference = cls(net.parameters(), **options), ByHand(net, rule)
    seen = set()
    for _ in range(10):
        optimizer.zero_grad()
        draws = []
        for _ in range(3):
            net(torch.randn(4, 5).double()).square().sum().backward()
            draws.append(tuple(net.rate.draws.tolist()))
        assert len(set(draws)) == 1
        seen.add(draws[0])
        reference.step()
        optimizer.step()
        reference.check()
    assert len(seen) == 10, "and another one after the optimizer's step"


def test_a_schedule_that_ticks_waits_too() -> None:
    net = Net("alternate")
    attach(net.cuts, net.rate)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    rates = []
    for _ in range(4):
        for _ in range(2):
            net(torch.randn(4, 5).double()).square().sum().backward()
            rates.append(net.rate.now)
        optimizer.step()
    assert rates == [0, 0, 0.5, 0.5] * 2
    detach(net.rate)


def test_without_slices_in_force_it_is_the_plain_step(net: Net) -> None:
    twin = copy.deepcopy(net)
    detach(twin.rate)
    net.rate.set(0.0)
    twin.rate.set(0.0)
    batch = torch.randn(4, 5).double()
    for model in (net, twin):
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
        model(batch).square().sum().backward()
        optimizer.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("positional", [True, False])
def test_a_closure_is_run_before_anything_is_kept(net: Net, positional: bool) -> None:
    cls, options, rule = OPTIMIZERS["SGD, momentum"]
    optimizer, reference = cls(net.parameters(), **options), ByHand(net, rule)
    for _ in range(5):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = net(torch.randn(4, 5).double()).square().sum()
            loss.backward()
            reference.step()
            return loss

        loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
        assert isinstance(loss, Tensor)
        reference.check()


def test_a_scaled_step_that_overflows_changes_nothing(net: Net) -> None:
    net.float()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(net.state_dict())
    scaler.scale(net(torch.randn(4, 5)).sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_step_that_raises_loses_nothing(net: Net) -> None:
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure: Any = None) -> Any:
            if self.fails:
                raise MemoryError
            return super().step(closure)

    optimizer, reference = Failing(net.parameters(), lr=0.1, weight_decay=0.1), ByHand(net, sgd(0.1, weight_decay=0.1))
    net(torch.randn(4, 5).double()).sum().backward()
    with pytest.raises(MemoryError):
        optimizer.step()
    optimizer.fails = False
    reference.step()
    optimizer.step()
    reference.check()


def test_two_optimizers_share_the_parameters(net: Net) -> None:
    rule = sgd(0.1, 0.9)
    reference = ByHand(net, rule)
    some, rest = list(net.parameters())[:2], list(net.parameters())[2:]
    optimizers = [torch.optim.SGD(group, lr=0.1, momentum=0.9) for group in (some, rest)]
    for _ in range(5):
        net.zero_grad()
        net(torch.randn(4, 5).double()).square().sum().backward()
        reference.step()
        for optimizer in optimizers:
            optimizer.step()
        reference.check()


def test_parameters_without_a_gradient_are_left_out(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net.first.requires_grad_(False)
    for _ in range(3):
        net(torch.randn(4, 5).double()).square().sum().backward()
        optimizer.step()
    assert net.first.weight.grad is None


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copied_model_keeps_to_its_own_slices(net: Net, how: str) -> None:
    net(torch.randn(4, 5).double()).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    net.zero_grad()
    twin = copy.deepcopy(net) if how == "deepcopy" else pickle.loads(pickle.dumps(net))
    assert twin.rate.update is not net.rate.update
    assert {id(p) for p, _ in twin.rate.update.parameters} <= {id(p) for p in twin.parameters()}
    twin.cuts = twin.rate.update.parameters
    cls, options, rule = OPTIMIZERS["SGD, momentum"]
    optimizer, reference = cls(twin.parameters(), **options), ByHand(twin, rule)
    before = copy.deepcopy(net.state_dict())
    for _ in range(4):
        optimizer.zero_grad()
        twin(torch.randn(4, 5).double()).square().sum().backward()
        reference.step()
        optimizer.step()
        reference.check()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    detach(twin.rate)


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor", "ASGD"])
def test_optimizers_that_see_whole_tensors_are_refused(net: Net, name: str) -> None:
    optimizer = getattr(torch.optim, name)(net.parameters())
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 5).double()).sum().backward()
    with pytest.raises(ValueError, match=rf'{name} does not work element by element.*SliceOut\(update="autograd"\)'):
        optimizer.step(lambda: 0.0)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_state_of_another_shape_is_refused(net: Net) -> None:
    class Factored(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["rows"] = torch.zeros(parameter.shape[0] + 1)
            return super().step(closure)

    net(torch.randn(4, 5).double()).sum().backward()
    with pytest.raises(ValueError, match="Factored does not work element by element"):
        Factored(net.parameters(), lr=0.1).step()


def test_other_models_optimizers_are_left_alone(net: Net) -> None:
    other = nn.Linear(3, 3)
    optimizer = torch.optim.LBFGS(other.parameters())
    other(torch.randn(2, 3)).sum().backward()
    optimizer.step(lambda: 0.0)
    assert net.rate.waits is False
    net(torch.randn(4, 5).double())
    assert net.rate.waits is True
    optimizer.step(lambda: 0.0)
    assert net.rate.waits is True


def test_detached_the_optimizer_acts_on_everything(net: Net) -> None:
    detach(net.rate)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(4, 5).double()).sum().backward()
    optimizer.step()
    for parameter, old in zip(net.parameters(), before, strict=True):
        assert not (parameter == old).any()
    detach(net.rate)


def test_nothing_is_kept_alive() -> None:
    net = Net()
    attach(net.cuts, net.rate)
    assert net.rate.update in update._live
    kept = [weakref.ref(each) for each in (net.rate, net.rate.update, net.first.weight)]
    del net
    gc.collect()
    assert [ref() for ref in kept] == [None, None, None]


def test_the_hooks_are_registered_once() -> None:
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    for _ in range(3):
        net = Net()
        attach(net.cuts, net.rate)
        attach(net.cuts, net.rate)
    assert sum(hook is update._before_step for hook in _global_optimizer_pre_hooks.values()) == 1
    assert sum(hook is update._after_step for hook in _global_optimizer_post_hooks.values()) == 1
