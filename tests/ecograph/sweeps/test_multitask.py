"""Several targets: a model for each, or one trunk for all."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import ecograph
from ecograph.loop import Callback
from ecograph.sweeps.apart import Apart
from ecograph.sweeps.attempt import attempt
from ecograph.sweeps.functions import active
from ecograph.sweeps.multitask import MultiTask
from ecograph.sweeps.space import parse_space
from ecograph.sweeps.tally import Targets

TARGETS = {"kind": "val_accuracy >= 0.75", "sum": "val_loss <= 0.3"}
LOSSES = {
    "kind": nn.functional.cross_entropy,
    "sum": lambda outputs, targets: nn.functional.mse_loss(outputs[:, 0], targets),
}
ARGUMENTS = {"target": TARGETS, "loss_fn": LOSSES, "progress": False, "probes": False, "finalists": 0, "prune": False}
BOTH = ("separate", "shared")
#: The last batch of validation is smaller than the others.
COUNT = 50


class Points(Dataset):
    """Which of three directions a point is nearest to, and the sum of its first two numbers."""

    def __init__(self, first, count):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(300, 8, generator=generator)[first : first + count]
        ways = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
        self.kind, self.sum = (self.x @ ways).argmax(1), self.x[:, :2].sum(1)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, at):
        return self.x[at], {"kind": self.kind[at], "sum": self.sum[at]}


class Heads(nn.Module):
    def __init__(self, tasks, width):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, width), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(width, {"kind": 3, "sum": 1}[name]) for name in tasks})
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        trunk = self.trunk(x)
        return {name: head(trunk) for name, head in self.heads.items()}


def make_model(tasks, width=32):
    return Heads(tasks, width)


def make_loaders(batch_size=32):
    return DataLoader(Points(0, 192), batch_size, shuffle=True), DataLoader(Points(192, COUNT), 32)


def problem(targets=TARGETS, **more):
    given = {"loss_fn": LOSSES, "fixed": {"lr": 0.03, "epochs": 40, "schedule": "none"}} | more
    space = parse_space({"trunk": ["separate", "shared"]}, active)
    return MultiTask(make_model, make_loaders, space, targets=Targets.of(targets), **given)


def test_the_trunk_is_a_dimension_of_the_space():
    space = {"lr": [0.03], "width": [32, 48]}
    found = ecograph.sweep(make_model, make_loaders, space=space, budget=6, fixed={"epochs": 60}, **ARGUMENTS)
    assert found.rows[0].values.keys() == {"trunk", "lr", "width"}
    assert {row.values["trunk"] for row in found.reached} == {"separate", "shared"}
    for row in found.reached:
        margins = [margin for *_, margin in row.attempt.curve]
        assert margins[-1] >= 0 > max(margins[:-1], default=-1), "it ends in the epoch in which all are reached"
    assert "kind: val_accuracy >= 0.75 and sum: val_loss <= 0.3" in found.to_dict()["target"]
    fixed = {"epochs": 60, "trunk": "shared"}
    found = ecograph.sweep(make_model, make_loaders, space={"lr": [0.03]}, budget=1, fixed=fixed, **ARGUMENTS)
    assert found.rows[0].values == {"lr": 0.03} and found.reached


class Seen(Callback):
    """Keeps what an epoch recorded, and evaluates the models by itself."""

    def __init__(self):
        self.epochs = []

    def on_epoch_end(self, epoch, model, record):
        data = Points(192, COUNT)
        with torch.no_grad():
            outputs = {}
            for each in model.models.values() if isinstance(model, Apart) else [model]:
                outputs |= each(data.x)
        kind = (outputs["kind"].argmax(1) == data.kind).float().mean().item()
        self.epochs.append((kind, LOSSES["sum"](outputs["sum"], data.sum).item(), dict(record.values)))


@pytest.mark.parametrize("trunk", BOTH)
def test_targets_are_judged_on_all_samples(trunk):
    seen = Seen()
    training = problem().training({"trunk": trunk}, seed=0, stop="", callbacks=[seen])
    with pytest.raises(Exception, match="reached"):
        training.loop.run(*training.arguments)
    for kind, loss, values in seen.epochs:
        assert values["val_kind_accuracy"] == pytest.approx(kind) and values["val_sum_loss"] == pytest.approx(loss)
        assert values["val_margin"] == pytest.approx(min((kind - 0.75) / 0.75, (0.3 - loss) / 0.3), abs=1e-6)
    assert [kind >= 0.75 and loss <= 0.3 for kind, loss, _ in seen.epochs] == [False] * (len(seen.epochs) - 1) + [True]


def test_a_model_of_its_own_rests_when_it_is_there():
    weights = []

    class Weights(Callback):
        def on_epoch_end(self, epoch, model, record):
            models = model.models
            weights.append([models[name].trunk[0].weight.detach().clone() for name in ("kind", "sum")])
            weights[-1] += [models[name].calls for name in ("kind", "sum")]

    easy = problem({"kind": "val_accuracy >= 0.01", "sum": "val_loss <= 0"})
    training = easy.training({"trunk": "separate"}, seed=0, stop=None, callbacks=[Weights()])
    training.loop.run(*training.arguments)
    first, last = weights[0], weights[-1]
    assert torch.equal(first[0], last[0]) and first[2] == last[2], "neither trained nor called"
    assert not torch.equal(first[1], last[1]) and last[3] > first[3]


def test_flops_are_of_the_models_that_do_not_rest():
    """Linear layers: 2 FLOPs a weight and sample forward, twice that backward, no grad_input for the first."""
    easy = problem({"kind": "val_accuracy >= 0.01", "sum": "val_loss <= 0"}, fixed={"epochs": 3})
    took = {trunk: attempt(easy, {"trunk": trunk}, seed=0, target=easy.targets, minimize="flops") for trunk in BOTH}
    trunk, kind, last = 192 * 4 * 8 * 32, 192 * 6 * 32 * 3, 192 * 6 * 32
    assert took["shared"].cost["flops"] == pytest.approx(3 * (trunk + kind + last), rel=0.1)
    assert took["separate"].cost["flops"] == pytest.approx(trunk + kind + 3 * (trunk + last), rel=0.1)


def test_a_strict_target_is_not_reached_by_its_number():
    targets = Targets.of({"a": "val_accuracy > 0.5", "b": "val_loss <= 0.5"})
    assert targets.margin({"a": 0.5, "b": 0.1}) < 0 <= targets.margin({"a": 0.75, "b": 0.5})
    assert not targets.reached(targets.margin({"a": 0.5, "b": 0.1}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": {"kind": "val_accuracy >= 0.75"}}, "give two tasks or more"),
        ({"target": {"kind": "val_accuracy >= 0.75", "the sum": "val_loss <= 1"}}, "no name for a task"),
        ({"target": {**TARGETS, "sum": "val_loss >= 0.3"}}, "better the lower"),
        ({"target": {**TARGETS, "sum": "val_f1 >= 0.3"}}, "target of 'sum': there is no val_f1"),
        ({"loss_fn": {"kind": nn.functional.cross_entropy}}, "loss_fn has nothing for the task 'sum'"),
        ({"make_model": lambda width=3: nn.Linear(8, 3)}, "a parameter 'tasks'"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",  # a function's name in an id differs in every process
)
def test_says_what_is_wrong(change, message):
    arguments = {"make_model": make_model, "make_loaders": make_loaders, "space": {"lr": [0.1]}, **ARGUMENTS, **change}
    with pytest.raises(ValueError, match=message):
        ecograph.sweep(**arguments)
