from __future__ import annotations

import json
from functools import partial

import pytest
import rich
import torch
from torch import nn

import ecograph
from ecograph.advice import Setting
from ecograph.advice.rounds import interleaved, ratio
from ecograph.advice.subject import make_subject
from ecograph.advice.trial import NotPossibleError, Trial

QUICK = {"seconds": 0.5, "compile": False, "progress": False}


@pytest.fixture
def subject(net, images):
    return make_subject(net, images, None, None, partial(torch.optim.SGD, lr=0.0))


def test_measures_everything_beside_plain_training(net, images, capsys):
    torch.manual_seed(5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    targets = torch.zeros(8, dtype=torch.long)
    advice = ecograph.advise(net, images, nn.functional.cross_entropy, targets=targets, **QUICK)

    rows = {row.setting: row for row in advice.rows}
    assert advice.rows[0].setting == Setting() and advice.rows[0].time_ratio == 1.0
    assert {Setting(channels_last=True), Setting(fused=True), Setting(amp="bf16")} <= set(rows)
    assert any(setting.passes for setting in rows) and any(setting.batch == 16 for setting in rows)
    for row in advice.rows:
        assert row.possible, row.impossible
        assert row.seconds > 0 and row.time_ratio > 0 and row.rounds >= 3
        assert row.joules > 0 and row.energy_source.startswith(("modelled", "measured"))
    assert advice.best.numerics != "approximate" and advice.exact.numerics == "exact"
    assert rows[Setting(channels_last=True)].difference < 1e-3 < rows[Setting(amp="bf16")].difference

    # nothing is left behind
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert all(parameter.grad is None for parameter in net.parameters()) and net.training

    json.dumps(advice.to_dict(), allow_nan=False)
    rich.print(advice)
    printed = capsys.readouterr().out
    assert "near-exact" in printed and "Best safe setting" in printed


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # by torch's compiler, of its own code
def test_a_compiled_step_is_measured_and_has_the_same_gradient():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    advice = ecograph.advise(model, x, passes=[], batches=False, **(QUICK | {"compile": True}))
    compiled = [row for row in advice.rows if row.setting.compile]
    assert compiled and all(row.possible and row.time_ratio > 0 and row.rounds >= 3 for row in compiled)
    assert compiled[0].setting.numerics == "exact" and compiled[0].difference < 1e-5
    assert model._compiled_call_impl is None, "a copy is compiled, not the model"


def test_memory_is_that_of_a_step(net, images):
    """Next to a sum by hand: twice the weights, and at least what the two convolutions keep."""
    advice = ecograph.advise(net, images, passes=[], batches=False, **QUICK)
    weights = sum(p.nbytes for p in net.parameters())
    kept = 2 * 8 * 64 * 8 * 8 * 4
    plain = advice.rows[0].peak_bytes
    assert 2 * weights + kept < plain < 4 * weights + 10 * kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"example_inputs": None}, "needs example_inputs"),
        ({"example_inputs": torch.randn(8, 5, 8, 8)}, "does not run on example_inputs"),
        ({"loss_fn": 3}, "loss_fn=3"),
        ({"loss_fn": lambda outputs: outputs}, "one number is needed"),
        ({"loss_fn": nn.functional.cross_entropy}, "needs targets="),
        ({"loss_fn": lambda outputs: torch.tensor(1.0)}, "does not depend on the model's parameters"),
        ({"targets": torch.zeros(8)}, "no loss_fn"),
        ({"seconds": 0}, "seconds=0"),
        ({"by": "beauty"}, "by='beauty'"),
        ({"passes": "sliceout"}, "give a list"),
        ({"passes": [ecograph.passes.GradSamp()]}, "does not rewrite a model"),
        ({"model": nn.Linear}, "advise needs a torch.nn.Module"),
        ({"model": nn.ReLU()}, "no parameters"),
        ({"model": nn.Linear(3, 3, device="meta")}, "meta device"),
        ({"model": nn.Linear(3, 3).requires_grad_(False)}, "requires a gradient"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_says_what_is_wrong(net, images, change, message):
    arguments = {"model": net, "example_inputs": images, **QUICK, **change}
    with pytest.raises(ValueError, match=message):
        ecograph.advise(**arguments)


def test_an_optimizer_that_was_made_already(net, images):
    with pytest.raises(ValueError, match="give a class, such as torch.optim.SGD"):
        ecograph.advise(net, images, optimizer=torch.optim.SGD(net.parameters()), **QUICK)


def test_what_cannot_be_run_is_a_row_with_a_reason(net, images):
    advice = ecograph.advise(net, images, optimizer=torch.optim.Rprop, passes=[], batches=False, **QUICK)
    row = advice.row(Setting(fused=True))
    assert not row.possible and "fused" in row.impossible


def test_a_pass_without_effect_cannot_be_run(subject):
    with pytest.raises(NotPossibleError, match="no effect"):
        Trial(subject, Setting(passes=(ecograph.passes.SparseBackward(min_channels=4096),)))


def test_a_pass_counts_as_the_mean_over_its_schedule(subject):
    trial = Trial(subject, Setting(passes=(ecograph.passes.SparseBackward(drop=0.75, when="always"),)))
    assert dict(trial.mix) == {(0.0,): 0.5, (0.75,): 0.5}


def test_a_smaller_and_a_larger_batch(subject):
    for size in (4, 20):
        (args, _), _ = subject.resized(size)
        assert args[0].shape == (size, 3, 8, 8)
        assert torch.equal(args[0][:4], subject.inputs[0][0][:4])


def test_rounds_time_each_trial(subject, monkeypatch):
    """A trial whose step sleeps is found to be slower by as much."""
    import time

    plain, slow = Trial(subject, Setting()), Trial(subject, Setting())
    step = slow.step
    monkeypatch.setattr(slow, "step", lambda: (time.sleep(0.05), step()))
    first, second = interleaved([plain, slow], 0.1)
    assert len(first.seconds) == len(second.seconds) >= 3
    assert min(second.seconds) >= 0.05
    assert second.energy.joules is not None
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == (2.0, 0.0)
