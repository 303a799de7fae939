"""SliceOut through the public API: what a user is promised about a model that is sliced."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from slices import MODELS, Gpt, Mlp, Reference, build, call, differing, slices, starts, step
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import ecograph
from ecograph.passes import SliceOut
from ecograph.passes.sliceout.take import outside
from ecograph.record import records

#: The others take long, and come where they matter.
SMALL = ["MLP", "Wide ResNet", "GPT", "routed", "inverted"]
each_model = pytest.mark.parametrize("name", SMALL)


def sliced(model: nn.Module, x: Tensor, rate: float = 0.5, *, skip: Any = (), **options: Any) -> nn.Module:
    passes = [SliceOut(rate, **{"min_width": 8, "when": "always", **options})]
    return ecograph.optimize(model, example_inputs=(x,), passes=passes, skip=skip)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def reasons(model: nn.Module) -> dict[str, str]:
    return {group.name: group.reason for group in ecograph.explain(model).groups}


# What a step computes


PROBABILITY: dict[str, Any] = {"normalization": "probability"}
ANYWHERE: dict[str, Any] = {"starts": "any", "align": 1, "rate": 0.7}
BLOCKS: dict[str, Any] = {"starts": "blocks"}


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in MODELS]
    + [(name, options) for options in (PROBABILITY, ANYWHERE, BLOCKS) for name in SMALL]
    + [("ViT", ANYWHERE), ("BERT", ANYWHERE), ("GPT-2", PROBABILITY)],
    ids=str,
)
def test_a_training_step_is_that_of_the_masked_full_network(name: str, options: dict[str, Any]) -> None:
    model, x = build(name, torch.float64)
    reference = Reference(model, x)
    sliced(model, x, **options)
    seen = set()
    for _ in range(2 if name == "MobileNet" else 4):
        found = step(model, x)
        assert not differing(found, reference.step(model, x))
        seen.add(starts(model))
    assert all(group.active for group in slices(model).values())
    assert len(seen) > 1 or name == "MobileNet"


@each_model
def test_gradients_are_full_shaped_and_zero_outside_the_slice(name: str) -> None:
    model, x = build(name)
    sliced(model, x, update="slice")  # which knows how each parameter is cut
    found = step(model, x)  # asserts that no gradient is None
    cut = records(model)[0].rates[0].update.parameters
    assert len(cut) >= 2 * len(slices(model))
    for parameter, cuts in cut:
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.stride() == parameter.stride()
        parts = outside(parameter.grad, cuts)
        assert parts
        assert not any(part.any() for part in parts)
    assert all(found[f"grad {name}"].any() for name in ("weight", "down.weight") if f"grad {name}" in found)


@pytest.mark.parametrize("mode", ["eval", "rate is 0", "no_grad in eval"])
@each_model
def test_whole_it_is_the_original_bit_for_bit(name: str, mode: str) -> None:
    (plain, x), (model, _) = build(name), build(name)
    if mode == "rate is 0":
        with pytest.warns(ecograph.NoEffectWarning, match="rate is 0"):
            sliced(model, x, 0)
    else:
        sliced(model, x)
        for each in (plain, model):
            each.eval()
    if mode == "no_grad in eval":
        with torch.no_grad():
            assert torch.equal(call(model, x), call(plain, x))
        return
    assert_equal(step(model, x), step(plain, x))


@each_model
def test_eval_after_training_is_the_full_network_with_the_trained_parameters(name: str) -> None:
    model, x = build(name)
    sliced(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        step(model, x)
        optimizer.step()
        plain, _ = build(name)
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert torch.equal(call(model.eval(), x), call(plain.eval(), x))
        model.train()
    step(model, x)
    assert all(group.active for group in slices(model).values())


def test_a_rate_set_to_zero_is_the_original_bit_for_bit() -> None:
    (plain, x), (model, _) = build("Wide ResNet"), build("Wide ResNet")
    sliced(model, x, schedule="alternate")
    assert_equal(step(model, x), step(plain, x))  # an even step of "alternate" is dense
    assert not any(group.active for group in slices(model).values())
    step(model, x)
    assert all(group.active for group in slices(model).values())


@pytest.mark.parametrize("normalization", ["flow", "probability"])
def test_frozen_batch_norms_use_their_slice_of_the_statistics(normalization: str) -> None:
    model, x = build("Wide ResNet", torch.float64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.eval()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    reference = Reference(model, x)
    for node in reference.masked.module.graph.nodes:  # a capture is of training, whatever mode the model is in
        if "batch_norm" in str(node.target):
            node.args = (*node.args[:5], False, *node.args[6:])
    sliced(model, x, normalization=normalization)
    for _ in range(3):
        found = step(model, x)
        expected = reference.step(model, x)
        assert not differing(*({k: v for k, v in each.items() if "buffer" not in k} for each in (found, expected)))
    assert_equal(dict(model.named_buffers()), before)


@pytest.mark.parametrize("how", ["weight_norm", "orthogonal"])
@pytest.mark.parametrize("layer", ["up", "mid"])
def test_a_parametrized_weight_is_cut_where_it_is_multiplied(layer: str, how: str) -> None:
    model, x = build("MLP", torch.float64)
    getattr(parametrizations, how)(getattr(model, layer))
    reference = Reference(model, x)
    sliced(model, x)
    assert len(slices(model)) == 2
    for _ in range(2):
        found = step(model, x)
        assert not differing(found, reference.step(model, x))


def test_a_block_in_eval_mode_runs_in_full_while_the_rest_is_sliced() -> None:
    (plain, x), (model, _) = build("Wide ResNet"), build("Wide ResNet")
    sliced(model, x)
    model[2].eval(), plain[2].eval()
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    model[2].register_forward_hook(lambda m, args, out: seen.update({m: (args[0], out)}))
    step(model, x)
    assert {name: group.active for name, group in slices(model).items()} == {
        "0": True, "1.conv1": True, "2.conv1": False, "3.conv1": True,
    }  # fmt: skip
    given, output = seen[model[2]]
    plain[2].load_state_dict(model[2].state_dict())
    assert torch.equal(plain[2](given), output)


# What stays as it was


@each_model
def test_state_dicts_load_strictly_both_ways(name: str) -> None:
    (plain, x), (model, _) = build(name), build(name)
    keys = list(model.state_dict())
    sliced(model, x)
    step(model, x)
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    plain.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(call(plain.eval(), x), call(model.eval(), x))
    fresh, _ = build(name)
    model.load_state_dict(fresh.state_dict(), strict=True)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())


@each_model
def test_optimizing_twice_is_optimizing_once(name: str) -> None:
    (model, x), (once, _) = build(name), build(name)
    sliced(once, x)
    sliced(model, x, 0.3, update="slice", normalization="probability")
    sliced(model, x)
    assert ecograph.explain(model).to_dict() == ecograph.explain(once).to_dict()
    assert [type(module) for module in model.modules()] == [type(module) for module in once.modules()]
    assert [sorted(m.__dict__) for m in model.modules()] == [sorted(m.__dict__) for m in once.modules()]
    assert len(model._forward_pre_hooks) == len(once._forward_pre_hooks) == 1
    for _ in range(2):
        assert_equal(step(model, x), step(once, x))


def through_torch_save(model: nn.Module, folder: Any) -> nn.Module:
    torch.save(model, folder / "model.pt")
    return torch.load(folder / "model.pt", weights_only=False)


COPIES: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", ["Wide ResNet", "routed", "GPT-2"])
def test_copies_train_alike_and_on_their_own(name: str, how: str, tmp_path: Any) -> None:
    model, x = build(name)
    sliced(model, x, starts="any", align=1, update="slice")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    step(model, x)
    optimizer.step()
    other = COPIES[how](model, tmp_path)
    theirs = torch.optim.SGD(other.parameters(), lr=1e-3, momentum=0.9)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        assert_equal(step(other, x), step(model, x))
        assert starts(other) == starts(model)
        optimizer.step()
        theirs.step()
    assert_equal(dict(other.named_parameters()), dict(model.named_parameters()))
    before = starts(model)
    for _ in range(3):
        step(other, x)
        theirs.step()
    assert starts(model) == before, "the copy draws on its own"
    assert starts(other) != before
    ecograph.restore(other)
    assert all(group.active for group in slices(model).values())


def test_a_copy_leaves_the_original_alone() -> None:
    (plain, x), (model, _) = build("GPT"), build("GPT")
    passes = [SliceOut(0.5, min_width=8, when="always")]
    optimized = ecograph.optimize(model, example_inputs=x, passes=passes, copy=True)
    assert not records(model)
    assert_equal(step(model, x), step(plain, x))
    step(optimized, x)
    assert len(slices(optimized)) == 4


def test_in_place_class_parameters_and_hooks_stay() -> None:
    model, x = build("Wide ResNet")
    parameters, seen = list(model.parameters()), []
    model[1].conv1.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    model[1].conv1.weight.register_hook(lambda grad: seen.append(grad.shape[0]))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    assert sliced(model, x) is model
    assert isinstance(model[1].conv1, nn.Conv2d)
    assert isinstance(model[1].norm2, nn.BatchNorm2d)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    before = model[1].conv1.weight.detach().clone()
    step(model, x)
    assert seen == [16, 32]
    optimizer.step()
    assert (model[1].conv1.weight != before).flatten(1).any(1).sum() == 16, "the slice was trained"


def test_a_checkpoint_of_other_widths_is_refused() -> None:
    model, x = Mlp(64), torch.randn(4, 12)
    sliced(model, x)
    with pytest.raises(RuntimeError, match=r"size mismatch for up.weight.*\[80, 12\].*\[64, 12\]"):
        model.load_state_dict(Mlp(80).state_dict())
    step(model, x)


@pytest.mark.parametrize("mode", ["weight", "layer", "norm"])
def test_a_width_that_changed_since_is_an_error_that_names_the_layer(mode: str) -> None:
    if mode == "weight":
        model, x = Mlp(64), torch.randn(4, 12)
        sliced(model, x)
        model.up.weight = nn.Parameter(torch.randn(80, 12))
        message = "dimension 0 of the weight of up has 80 elements, and had 64 when the model was optimized"
    elif mode == "layer":
        model, x = Mlp(64), torch.randn(4, 12)
        sliced(model, x)
        model.mid.weight = nn.Parameter(torch.randn(32, 80))
        message = "dimension 1 of the weight of mid has 80 elements, and had 64"
    else:
        model, x = build("Wide ResNet")
        sliced(model, x)
        model[1].norm2.running_mean = torch.zeros(24)
        message = "a statistic or weight of 1.norm2 has 24 elements, and had 32"
    with pytest.raises(ValueError, match=f"{message}.*restore it, then optimize it again"):
        model(x)


# Draws


def drawn(model: nn.Module, x: Tensor, steps: int = 12) -> list[dict[str, int]]:
    found = []
    for _ in range(steps):
        model(x)
        found.append({name: group.start for name, group in slices(model).items()})
    return found


def test_a_groups_slices_depend_on_seed_step_and_group_alone() -> None:
    x = torch.randn(4, 12)
    torch.manual_seed(1)
    first = drawn(sliced(Mlp(), x, seed=3), x)
    assert {tuple(each) for each in first} == {("up", "mid")}
    torch.manual_seed(2)
    alone = drawn(sliced(Mlp(), torch.randn(7, 12), skip=["down"], seed=3), torch.randn(2, 12))
    assert alone == [{"up": each["up"]} for each in first], "not on other groups, random numbers or batches"
    wider = nn.Sequential(Mlp(), nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 3))
    assert [each["0.up"] for each in drawn(sliced(wider, x, seed=3), x)] != [each["up"] for each in first], "a name"
    assert drawn(sliced(Mlp(), x, seed=4), x) != first
    assert len({each["up"] for each in first}) == len({each["mid"] for each in first}) == 3
    assert len({tuple(each.values()) for each in first}) > 3, "groups draw apart from each other"


def test_forwards_that_do_not_train_do_not_draw() -> None:
    x = torch.randn(4, 12)
    model, other = sliced(Mlp(), x), sliced(Mlp(), x)
    expected = drawn(other, x)
    found = []
    for _ in range(12):
        found += drawn(model, x, 1)
        model.eval()(x)
        with torch.no_grad():
            model(x)
            model.train()(x)
    assert found == expected


def test_torchs_random_numbers_are_left_alone() -> None:
    (model, x), (plain, _) = build("GPT"), build("GPT")
    sliced(model, x)
    states = []
    for each in (model, plain):
        torch.manual_seed(5)
        step(each, x)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "ViT", "routed", "GPT-2"])
def test_batches_of_other_sizes_than_the_example(name: str) -> None:
    torch.manual_seed(3)
    model, x = build(name, torch.float64)
    reference = Reference(model, x)
    sliced(model, x)
    others = {"Wide ResNet": torch.randn(5, 3, 12, 10), "ViT": torch.randn(4, 13, 32)}
    for other in (x[:2], torch.cat([x, x]), others.get(name, x[:3])):
        if name == "GPT-2" and other.shape[0] == 3:
            other = torch.randint(0, 31, (4, 6))
        other = other.to(x.dtype)
        found = step(model, other)
        plain = copy.deepcopy(reference.model)
        assert not differing(found, Reference(plain, other).step(model, other))
        reference.model.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["MLP", "ViT", "GPT", "GPT-2"])
def test_an_example_of_one(name: str) -> None:
    """Sizes of one are the hardest to tell apart: here those of the example, of the slice and of the batch."""
    for cut in (lambda x: x[:1], lambda x: x[:, :1] if x.ndim > 1 and name != "MLP" else x[:1]):
        model, x = build(name, torch.float64)
        reference = Reference(model, x)
        sliced(model, cut(x), 0.7, starts="any", align=1)
        found = step(model, x)
        assert not differing(found, reference.step(model, x))


# Other ways to call a model


@pytest.mark.parametrize("normalization", ["flow", "probability"])
def test_inference_mode_leaves_nothing_behind(normalization: str) -> None:
    model, x = build("GPT")
    with torch.inference_mode():
        sliced(model, x, normalization=normalization)
        model(x)
        model.eval()(x)
    step(model.train(), x)
    scheduler = ecograph.Scheduler(model, epochs=2, steps_per_epoch=1)
    with torch.inference_mode():
        model(x)
        scheduler.step()
        model(x)
    step(model, x)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("name", ["MLP", "GPT"])
def test_gradients_per_sample_add_up(name: str) -> None:
    model, x = build(name, torch.float64)
    sliced(model, x)
    parameters = {key: parameter.detach() for key, parameter in model.named_parameters()}

    def loss(given: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(model, given, (row[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    before = starts(model)
    again = torch.func.grad(lambda given: sum(loss(given, row) for row in x[:1]))(parameters)
    assert again.keys() == parameters.keys()
    assert int(records(model)[0].rates[0].step) == 2, "each forward draws once"
    records(model)[0].rates[0].move_to(1)
    records(model)[0].rates[0].scheduled = True
    assert starts(model) == before
    model(x).square().sum().backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key].sum(0), parameter.grad)


def test_second_derivatives() -> None:
    model, x = build("MLP", torch.float64)
    reference = Reference(model, x)
    sliced(model, x)

    def second(run: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(run(leaf).square().sum(), leaf, create_graph=True)
        first.square().sum().backward()
        return leaf.grad

    torch.testing.assert_close(second(model), second(lambda leaf: reference.masked(slices(model), leaf)[0]))


# Schedules


@pytest.mark.parametrize(
    ("schedule", "plan", "widths"),
    [
        ("constant", {"epochs": 3}, [32, 32, 32]),
        ("alternate", {"epochs": 4}, [64, 32, 64, 32]),
        ("linear", {"epochs": 5}, [64, 56, 48, 40, 32]),
        ("bar", {"epochs": 4}, [64, 64, 32, 32]),
        ("constant", {"epochs": 5, "warmup": 1, "tail": 2}, [64, 32, 32, 64, 64]),
        ("linear", {"epochs": 4, "by": "iteration", "period": 2}, [64, 32] * 4),
    ],
)
def test_a_scheduler_sets_the_width(schedule: str, plan: dict[str, Any], widths: list[int]) -> None:
    (plain, x), (model, _) = build("MLP"), build("MLP")
    sliced(model, x, schedule=schedule)
    shapes: list[int] = []
    model.up.register_forward_hook(lambda m, args, out: shapes.append(out.shape[1]))
    scheduler = ecograph.Scheduler(model, steps_per_epoch=2, **plan)
    for _ in range(2 * plan["epochs"]):
        found = step(model, x)
        if shapes[-1] == 64:
            assert_equal(found, step(plain, x))
        scheduler.step()
    per_step = widths if "by" in plan else [width for width in widths for _ in range(2)]
    assert shapes == per_step
    mean = sum(per_step) / len(per_step) / 64
    (group,) = [group for group in ecograph.explain(model).groups if group.name == "up"]
    assert group.bytes_after == round(mean * group.bytes_before)


@pytest.mark.parametrize(
    ("schedule", "widths"),
    [("constant", [32] * 4), ("alternate", [64, 32, 64, 32]), ("linear", [64, 60, 57, 53, 50, 46, 43, 39, 36, 32])],
)
def test_without_a_scheduler_it_ticks_with_every_training_forward(schedule: str, widths: list[int]) -> None:
    model, x = build("MLP")
    sliced(model, x, schedule=schedule, align=1)
    shapes: list[int] = []
    model.up.register_forward_hook(lambda m, args, out: shapes.append(out.shape[1]))
    for _ in range(len(widths)):
        step(model, x)
    assert shapes == widths


def test_gradients_accumulate_on_one_slice_per_step_of_a_scheduler() -> None:
    model, x = build("MLP", torch.float64)
    sliced(model, x)
    scheduler = ecograph.Scheduler(model, epochs=5, steps_per_epoch=4)
    seen = []
    for _ in range(6):
        model.zero_grad()
        for half in x.chunk(2):
            model(half).square().sum().backward()
            seen.append(starts(model))
        parts = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        model(x).square().sum().backward()
        assert starts(model) == seen[-1]
        for part, parameter in zip(parts, model.parameters(), strict=True):
            torch.testing.assert_close(part, parameter.grad)
        scheduler.step()
    assert seen[::2] == seen[1::2]
    assert len(set(seen)) > 2


# update="slice"

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, weight_decay=0.05, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "GPT", "routed", "inverted", "GPT-2"])
def test_update_slice_moves_the_slice_and_nothing_else(name: str, optimizer: str) -> None:
    """Against the masked network, whose optimizer steps on everything and is then put back outside the slice."""
    model, x = build(name, torch.float64)
    reference = Reference(model, x)
    sliced(model, x, update="slice", starts="any", align=1)
    cut = {id(parameter): cuts for parameter, cuts in records(model)[0].rates[0].update.parameters}
    mine, theirs = OPTIMIZERS[optimizer](model.parameters()), OPTIMIZERS[optimizer](reference.model.parameters())
    pairs = list(zip(model.parameters(), reference.model.parameters(), strict=True))
    for number in range(3):
        found = step(model, x)
        assert not differing(found, reference.step(model, x), 1e-6), number
        inside = [torch.ones(parameter.shape, dtype=torch.bool) for parameter, _ in pairs]
        for mask, (parameter, _) in zip(inside, pairs, strict=True):
            for part in outside(mask, cut.get(id(parameter), ())):
                part.fill_(False)
        own = [parameter.detach().clone() for parameter, _ in pairs]
        before = [(full.detach().clone(), copy.deepcopy(theirs.state.get(full, {}))) for _, full in pairs]
        mine.step()
        theirs.step()
        for mask, (parameter, full), was, (value, state) in zip(inside, pairs, own, before, strict=True):
            full.data = torch.where(mask, full.data, value)
            assert torch.equal(parameter[~mask], was[~mask]), "outside nothing moves"
            torch.testing.assert_close(parameter.data, full.data, rtol=1e-6, atol=1e-8)
            for key, now in theirs.state[full].items():
                if now.shape == full.shape:
                    now.copy_(torch.where(mask, now, state.get(key, torch.zeros_like(now))))
                torch.testing.assert_close(mine.state[parameter][key], now, rtol=1e-5, atol=1e-7)
    assert any(not mask.all() for mask in inside)


def test_with_update_autograd_momentum_and_decay_act_on_everything() -> None:
    model, x = build("MLP")
    sliced(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    before = model.up.weight.detach().clone()
    step(model, x)
    optimizer.step()
    assert (model.up.weight != before).all()


def test_after_restore_optimizers_step_on_whole_parameters_again() -> None:
    model, x = build("MLP")
    sliced(model, x, update="slice")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    before = model.up.weight.detach().clone()
    step(model, x)
    optimizer.step()
    assert (model.up.weight != before).any(1).sum() == 32
    before = model.up.weight.detach().clone()
    step(model, x)
    ecograph.restore(model)
    optimizer.step()
    assert (model.up.weight != before).any(1).sum() == 64


def assign(model: nn.Module) -> None:
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)


def convert(model: nn.Module) -> None:
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    model.double().float()
    torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.mark.parametrize("replace", [assign, convert])
def test_update_slice_follows_parameters_that_are_replaced(replace: Callable[[nn.Module], None]) -> None:
    model, x = build("MLP")
    sliced(model, x, update="slice")
    old = model.up.weight
    replace(model)
    assert model.up.weight is not old
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    seen = set()
    for _ in range(6):
        before = model.up.weight.detach().clone()
        step(model, x)
        seen.add(starts(model))
        optimizer.step()
        assert (model.up.weight != before).any(1).sum() == 32
    assert len(seen) > 1, "draws go on"


def test_update_slice_refuses_a_weight_that_is_computed() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(12, 64)), nn.Tanh(), nn.Linear(64, 5))
    x = torch.randn(4, 12)
    with pytest.raises(ValueError, match=r"update='slice' cannot tell which rows of .* its weight .*skip=\['0'\]"):
        sliced(model, x, update="slice")
    sliced(model, x)
    step(model, x)
    assert len(slices(model)) == 1


@pytest.mark.parametrize("name", ["LBFGS", "Adafactor"])
def test_update_slice_refuses_an_optimizer_that_is_not_elementwise(name: str) -> None:
    model, x = build("MLP")
    sliced(model, x, update="slice")
    optimizer = getattr(torch.optim, name)(model.parameters())
    model(x).square().sum().backward()
    with pytest.raises(ValueError, match=rf'{name} does not work element by element.*SliceOut\(update="autograd"\)'):
        optimizer.step(lambda: model(x).square().sum())


# Bad input


def test_a_rate_that_leaves_no_unit() -> None:
    model, x = build("MLP")
    with pytest.warns(ecograph.NoEffectWarning, match="up: rate=0.999 leaves none of its 64 units: make the rate"):
        sliced(model, x, 0.999)
    assert_equal(step(model, x), step(build("MLP")[0], x))


def test_a_group_narrower_than_align() -> None:
    model, x = build("MLP")
    with pytest.warns(ecograph.NoEffectWarning, match="mid: 32 wide, narrower than align=48"):
        sliced(model, x, 0.1, align=48, filter_fn=lambda module, name: name != "up")
    sliced(model, x, align=48, rate=0.25)
    assert reasons(model)["mid"] == "32 wide, narrower than align=48"
    assert list(slices(model)) == ["up"]


def test_a_group_narrower_than_min_width() -> None:
    model, x = build("MLP")
    sliced(model, x, min_width=33)
    assert reasons(model)["mid"] == "32 wide, less than min_width=33"
    assert list(slices(model)) == ["up"]


def test_filter_fn_chooses_groups_all_of_whose_layers_it_takes() -> None:
    model, x = build("GPT")
    seen: list[tuple[type, str]] = []

    def attention(module: nn.Module, name: str) -> bool:
        seen.append((type(module), name))
        return name.endswith(("qkv", "proj"))

    sliced(model, x, filter_fn=attention)
    assert list(slices(model)) == ["blocks.0.qkv", "blocks.1.qkv"]
    assert reasons(model)["blocks.0.fc1"] == "filter_fn"
    assert {cls for cls, _ in seen} == {nn.Linear}


def test_a_filter_fn_that_takes_nothing() -> None:
    model, x = build("GPT")
    with pytest.raises(ValueError, match=r"filter_fn matches none of the 4 groups \(blocks.0.qkv, .*change it or"):
        sliced(model, x, filter_fn=lambda module, name: name.endswith("fc1"))
    assert not records(model)


@pytest.mark.parametrize("skip", ["blocks.0.fc2", "blocks.0.fc1", "blocks.0.fc1.weight", "blocks.0"])
def test_a_member_named_in_skip_keeps_its_group_whole(skip: str) -> None:
    model, x = build("GPT")
    sliced(model, x, skip=[skip])
    whole = ["blocks.0.qkv", "blocks.0.fc1"] if skip == "blocks.0" else ["blocks.0.fc1"]
    assert [name for name, reason in reasons(model).items() if reason == "named in skip"] == whole
    layers = {layer.name: layer.reason for layer in ecograph.explain(model).layers}
    assert "named in skip" in layers["blocks.0.fc1"]
    assert "named in skip" in layers["blocks.0.fc2"]
    assert layers["blocks.1.fc1"] == ""


def test_a_name_in_skip_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"no layer 'blocks.0.fc3'; did you mean 'blocks.0.fc"):
        sliced(Gpt(), torch.zeros(1, 4, dtype=torch.int64), skip=["blocks.0.fc3"])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.inner(x)
        return self.head(x)


def test_a_model_with_nothing_to_slice_says_what_stopped_each_layer() -> None:
    model = Residual()
    with pytest.warns(ecograph.NoEffectWarning) as caught:
        sliced(model, torch.randn(4, 8))
    (warning,) = caught
    assert warning.filename == __file__
    message = str(warning.message)
    assert message.startswith("ecograph.optimize had no effect: no channel group is sliced: ")
    assert "stem, inner: it is a residual stream" in message
    assert "head: it is an output of the graph" in message
    with pytest.warns(ecograph.NoEffectWarning, match="the model has no convolution or linear layer"):
        sliced(nn.LayerNorm(8), torch.randn(4, 8))


@pytest.mark.parametrize("passes", [["sliceout"], ["sparse_backward", "sliceout"]], ids=str)
def test_without_example_inputs_it_says_so(passes: list[str]) -> None:
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    with pytest.warns(ecograph.NoEffectWarning, match="0, 2, 4: shapes are unknown: give example_inputs"):
        ecograph.optimize(model, passes=passes)
    if len(passes) == 1:
        expected = ["in no group that is sliced: shapes are unknown: give example_inputs"] * 3
        assert [layer.reason for layer in ecograph.explain(model).layers] == expected
    step(model, torch.randn(4, 12))


def test_two_at_once_are_refused() -> None:
    model, x = build("MLP")
    with pytest.raises(ValueError, match="both slice channel groups: give one of them"):
        ecograph.optimize(model, example_inputs=x, passes=[SliceOut(0.5), SliceOut(0.25)])
    assert not records(model)
    assert_equal(step(model, x), step(build("MLP")[0], x))


def test_an_unknown_option() -> None:
    with pytest.raises(TypeError, match="'rates'"):
        SliceOut(rates=0.5)
    with pytest.raises(ValueError, match="SliceOut has no option 'rates'"):
        SliceOut.from_dict({"rates": 0.5})
    with pytest.raises(ValueError, match="rate=1.0: give a number from 0"):
        SliceOut(1.0)


def test_a_model_of_no_sliceable_part_among_others() -> None:
    """An aggressive recipe on a model without groups: the other pass acts, and the warning names this one alone."""
    model = nn.Sequential(nn.Linear(64, 64))
    passes = [ecograph.passes.SparseBackward(0.5, when="always", skip_first=False, skip_last=False), SliceOut()]
    with pytest.warns(ecograph.NoEffectWarning, match="the pass 'sliceout' had no effect: .*0: it is an output"):
        ecograph.optimize(model, example_inputs=torch.randn(4, 64), passes=passes)
    assert ecograph.explain(model).layers[0].rewritten_by == "sparse_backward"


def test_options_stay_with_the_report() -> None:
    model, x = build("MLP")
    sliced(model, x, 0.25, seed=7, starts="blocks")
    (options,) = json.loads(json.dumps(ecograph.explain(model).to_dict()))["passes"]
    assert {key: options[key] for key in ("name", "rate", "seed", "starts")} == {
        "name": "sliceout", "rate": 0.25, "seed": 7, "starts": "blocks",
    }  # fmt: skip
    with pytest.warns(ecograph.NoEffectWarning, match="does not pay: saves"):
        ecograph.optimize(model, example_inputs=x, passes=["sliceout"])
