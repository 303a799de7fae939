from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ecograph
from ecograph.passes import SparseBackward
from ecograph.record import records

ALL = {"when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}


def all_sparse(drop: float = 0.5, **options: Any) -> SparseBackward:
    return SparseBackward(drop, **{"schedule": "constant", **ALL, **options})


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 16, 3, padding=1, groups=2, bias=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(F.relu(self.norm(self.stem(x))))).mean((2, 3)))


class Scaled(nn.Module):
    """A convolution with a weight that is made in forward, as in timm's StdConv2d."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.gain = nn.Parameter(torch.ones(8, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) * self.gain
        return F.conv2d(x, weight, padding=1).mean((2, 3))


class Addmm(nn.Module):
    """GPT-2's Conv1D."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(x.size()[:-1] + (8,))


class Transposed(nn.Module):
    """Falcon's linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x[:, :2], x[:, :2])[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(x))))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.alias = self.first
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.alias(torch.tanh(self.first(x)))))


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))


def hooked_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3))


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    return nn.Sequential(prune.random_unstructured(nn.Linear(6, 8), "weight", 0.3), nn.Tanh(), nn.Linear(8, 3))


ROWS = lambda: torch.randn(4, 6)  # noqa: E731
TOKENS = lambda: torch.randn(2, 5, 8)  # noqa: E731

MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Cnn": (Cnn, lambda: torch.randn(2, 3, 6, 6)),
    "weight made in forward": (Scaled, lambda: torch.randn(2, 3, 6, 6)),
    "addmm": (Addmm, ROWS),
    "x @ w.T": (Transposed, ROWS),
    "attention": (Attention, TOKENS),
    "cross-attention": (CrossAttention, TOKENS),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), TOKENS),
    "tied weights": (Tied, lambda: torch.randint(0, 11, (2, 5))),
    "shared layer": (Shared, ROWS),
    "parametrization": (weight_normed, ROWS),
    "weight_norm with a hook": (hooked_weight_norm, ROWS),
    "pruned": (pruned, ROWS),
    "one layer": (lambda: nn.Linear(6, 8), ROWS),
    "1d": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 3)),
        lambda: torch.randn(2, 3, 7),
    ),
    "3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.ConvTranspose3d(4, 4, 2)),
        lambda: torch.randn(1, 2, 3, 4, 3),
    ),
}
each_model = pytest.mark.parametrize("name", MODELS)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and every gradient of one training step."""
    x = x.detach().clone()
    if x.is_floating_point():
        x.requires_grad_()
    model.zero_grad()
    output = model(x)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    found = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    if x.is_floating_point():
        found["grad input"] = x.grad
    return {"output": output.detach(), **{name: grad.clone() for name, grad in found.items()}}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def twin(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor]:
    """A model, its copy (equal, independent) and an input."""
    build, make_input = MODELS[name]
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build().to(dtype))
    torch.manual_seed(1)
    x = make_input()
    return *models, x.to(dtype) if x.is_floating_point() else x


def types(model: nn.Module) -> list[str]:
    """By name: torch makes a class of its own for each parametrized module."""
    return [type(module).__qualname__ for module in model.modules()]


def is_sparse(model: nn.Module) -> bool:
    return any(layer.rewritten_by for layer in ecograph.explain(model).layers)


@pytest.mark.parametrize("with_inputs", [True, False], ids=["inputs", "no inputs"])
@each_model
def test_every_layer_is_rewritten_and_its_gradients_are_sparse(name: str, with_inputs: bool) -> None:
    plain, model, x = twin(name, torch.float64)
    ecograph.optimize(model, example_inputs=(x,) if with_inputs else None, passes=[all_sparse(0.5)])
    layers = ecograph.explain(model).layers
    assert layers
    assert {layer.rewritten_by for layer in layers} == {"sparse_backward"}, [layer.reason for layer in layers]
    found, expected = step(model, x), step(plain, x)
    assert torch.equal(found["output"], expected["output"])
    assert found.keys() == expected.keys(), "no gradient is None"
    for key, gradient in expected.items():
        assert found[key].shape == gradient.shape
    differing = [key for key in expected if not torch.allclose(found[key], expected[key])]
    assert differing, "the backward is sparse"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["eval", "dense phase", "keeps all", "no_grad", "inference"])
@each_model
def test_dense_ways_are_bit_for_bit_the_original(name: str, mode: str, dtype: torch.dtype) -> None:
    plain, model, x = twin(name, dtype)
    if dtype is torch.bfloat16 and name == "pruned":
        pytest.skip("torch's pruning masks stay float32")
    options = {"schedule": "alternate"} if mode == "dense phase" else {}
    if mode == "keeps all":
        # One channel in a million: every layer keeps all but is rewritten all the same where a batch decides.
        options = {"schedule": "linear"}
    ecograph.optimize(model, passes=[all_sparse(0.5, **options)])
    if mode == "keeps all":
        records(model)[0].rates[0].scheduled = True
        records(model)[0].rates[0].set(1e-9)
    assert is_sparse(model)
    if mode in ("no_grad", "inference"):
        for each in (plain, model):
            each.train(mode == "no_grad")
        with torch.no_grad():
            assert torch.equal(model(x), plain(x))
        return
    for each in (plain, model):
        each.train(mode != "eval")
    assert_equal(step(model, x), step(plain, x))


@each_model
def test_optimizing_twice_is_optimizing_once(name: str) -> None:
    _, model, x = twin(name)
    _, once, _ = twin(name)
    ecograph.optimize(once, passes=[all_sparse()])
    first = ecograph.optimize(model, passes=[SparseBackward(0.9, **ALL)])
    again = ecograph.optimize(model, passes=[all_sparse()])
    assert again is first is model
    assert ecograph.explain(model).to_dict() == ecograph.explain(once).to_dict()
    assert types(model) == types(once)
    assert [sorted(m.__dict__) for m in model.modules()] == [sorted(m.__dict__) for m in once.modules()]
    assert len(model._forward_pre_hooks) == len(once._forward_pre_hooks)
    assert_equal(step(model, x), step(once, x))


#: Models with a weight that is no leaf, which torch refuses to deepcopy.
NO_DEEPCOPY = {"weight_norm with a hook", "pruned"}


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NO_DEEPCOPY])
def test_a_copy_leaves_the_original_alone(name: str) -> None:
    plain, model, x = twin(name)
    optimized = ecograph.optimize(model, passes=[all_sparse()], copy=True)
    assert optimized is not model
    assert not records(model)
    assert types(model) == types(plain)
    assert_equal(step(model, x), step(plain, x))
    assert is_sparse(optimized)
    assert {id(p) for p in optimized.parameters()}.isdisjoint({id(p) for p in model.parameters()})


def roundtrip_torch_save(model: nn.Module, tmp_path: Any) -> nn.Module:
    torch.save(model, tmp_path / "model.pt")
    return torch.load(tmp_path / "model.pt", weights_only=False)


COPIES: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "torch.save": roundtrip_torch_save,
}


@pytest.mark.filterwarnings("ignore:.*parametriz.*:UserWarning")
@pytest.mark.parametrize("how", COPIES)
@each_model
def test_copies_train_alike_and_on_their_own(name: str, how: str, tmp_path: Any) -> None:
    _, model, x = twin(name)
    ecograph.optimize(model, passes=[all_sparse(schedule="alternate")])
    if name == "parametrization" and how != "deepcopy":
        with pytest.raises((RuntimeError, pickle.PicklingError), match="arametriz"):
            COPIES[how](model, tmp_path)  # as torch does with any parametrized module
        return
    if name in NO_DEEPCOPY and how == "deepcopy":
        for each in (twin(name)[0], model):
            with pytest.raises(RuntimeError, match="deepcopy"):
                copy.deepcopy(each)
        return
    other = COPIES[how](model, tmp_path)
    for _ in range(4):  # dense and sparse steps
        assert_equal(step(other, x), step(model, x))
    for _ in range(3):
        model(x)  # ticks the one, not the other
    assert records(model)[0].rates[0].now != records(other)[0].rates[0].now
    assert ecograph.explain(other).to_dict() == ecograph.explain(model).to_dict()
    restored = ecograph.restore(other)
    assert types(restored) == types(twin(name)[0])
    assert is_sparse(model)


@each_model
def test_state_dicts_load_strictly_both_ways(name: str) -> None:
    plain, model, x = twin(name)
    keys = list(plain.state_dict())
    ecograph.optimize(model, passes=[all_sparse()])
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain.eval()(x), model.eval()(x))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.sub_(0.5)
    model.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(plain(x), model(x))


def test_in_place_it_is_the_same_object_of_the_same_class() -> None:
    model = Cnn()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    result = ecograph.optimize(model, passes=[all_sparse()])
    assert result is model
    assert type(model) is Cnn
    assert isinstance(model.stem, nn.Conv2d)
    assert isinstance(model.head, nn.Linear)
    assert all(p is parameters[n] for n, p in model.named_parameters())
    assert all(b is buffers[n] for n, b in model.named_buffers())


def test_an_optimizer_made_before_goes_on_working() -> None:
    model = Cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.stem.weight.clone()
    ecograph.optimize(model, passes=[all_sparse()])
    step(model, torch.randn(2, 3, 6, 6))
    optimizer.step()
    changed = (model.stem.weight != before).flatten(1).any(1)
    assert changed.sum() == 4, "half of the channels"


def test_hooks_stay_and_fire() -> None:
    model, seen = Cnn(), []
    model.stem.register_forward_hook(lambda m, args, output: seen.append("forward"))
    model.stem.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    model.head.register_forward_pre_hook(lambda m, args: seen.append("pre"))
    model.head.weight.register_hook(lambda grad: seen.append("weight"))
    model.register_forward_pre_hook(lambda m, args: seen.append("model"))
    ecograph.optimize(model, passes=[all_sparse()])
    assert seen == []
    step(model, torch.randn(2, 3, 6, 6))
    expected = ["model", "forward", "pre", "weight", "backward"]
    assert sorted(seen) == sorted(expected)
    ecograph.restore(model)
    step(model, torch.randn(2, 3, 6, 6))
    assert sorted(seen) == sorted(expected * 2)


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (["stem"], {"stem"}),
        (["body", "head"], {"body", "head"}),
        (["stem.weight"], {"stem"}),
        ([], set()),
    ],
)
def test_skip(skip: list[str], left: set[str]) -> None:
    model = ecograph.optimize(Cnn(), passes=[all_sparse()], skip=skip)
    dense = {layer.name: layer.reason for layer in ecograph.explain(model).layers if not layer.rewritten_by}
    assert dense == dict.fromkeys(left, "named in skip")


def test_skip_takes_a_whole_part() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 2))
    ecograph.optimize(model, passes=[all_sparse()], skip=["1"])
    assert [bool(layer.rewritten_by) for layer in ecograph.explain(model).layers] == [
        True,
        False,
        False,
        True,
    ]


def test_first_last_and_narrow_layers_stay_dense_with_their_reasons() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1, groups=32), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1),
        nn.Conv2d(32, 32, 1), nn.Conv2d(32, 10, 1),
    )  # fmt: skip
    for parameter in model[4].parameters():
        parameter.requires_grad_(False)
    for parameter in model[:4].parameters():
        parameter.requires_grad_(False)
    model[3].requires_grad_(True)
    ecograph.optimize(model, example_inputs=torch.randn(1, 3, 4, 4), passes=[SparseBackward(when="always")])
    assert [layer.reason for layer in ecograph.explain(model).layers] == [
        "first layer (skip_first)",
        "frozen: needs no gradient",
        "frozen: needs no gradient",
        "",
        "",
        "last layer (skip_last)",
    ]
    model = nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1, groups=32), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 40, 1)
    )
    ecograph.optimize(model, passes=[SparseBackward(0.01, when="always", skip_last=False, min_channels=9)])
    assert [layer.reason for layer in ecograph.explain(model).layers][1:] == [
        "depthwise: one output channel per group",
        "8 output channels, fewer than min_channels=9",
        "",
    ]


def test_filter_fn_sees_the_owner_and_the_name() -> None:
    seen: list[tuple[str, str]] = []

    def only_convolutions(module: nn.Module, name: str) -> bool:
        seen.append((type(module).__name__, name))
        return isinstance(module, nn.Conv2d)

    model = ecograph.optimize(Cnn(), passes=[all_sparse(filter_fn=only_convolutions)])
    assert seen == [("Conv2d", "stem"), ("Conv2d", "body"), ("Linear", "head")]
    assert [layer.reason for layer in ecograph.explain(model).layers] == ["", "", "filter_fn"]


@each_model
def test_a_filter_is_asked_with_the_module_that_owns_the_weight(name: str) -> None:
    _, model, _ = twin(name)
    owners = []
    ecograph.optimize(model, passes=[all_sparse(filter_fn=lambda module, name: owners.append(module) or True)])
    for owner in owners:
        assert any(owner is module for module in model.modules())
        assert next(owner.parameters(), None) is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"passes": [SparseBackward(filter_fn=lambda m, n: False)]},
            r"filter_fn matches none of the 3 layers \(stem",
        ),
        ({"passes": "sparse_backward"}, r"passes='sparse_backward': give a list"),
        ({"passes": SparseBackward()}, "give a list"),
        ({"passes": ["sparse"]}, "no pass is called 'sparse'"),
        ({"passes": [SparseBackward]}, "give an instance"),
        ({"passes": [lambda gm: gm]}, "is not a pass"),
        ({"recipe": "fast"}, "recipe='fast'.*'balanced'"),
        ({"lower": "module"}, "lower='module'.*'model' or 'graph'"),
        ({"skip": ["steem"]}, "did you mean 'stem"),
        ({"example_inputs": torch.randn(2, 5)}, "example_inputs do not fit Cnn"),
        ({"example_inputs": torch.randn(2, 5, 6, 6)}, r"example_inputs do not fit Cnn.*\(2, 5, 6, 6\)"),
        ({"example_inputs": "x"}, "example_inputs is a str"),
        ({"example_inputs": ()}, "holds no tensor"),
        ({"example_inputs": {"y": torch.randn(2, 3, 6, 6)}}, "example_inputs do not fit"),
    ],
)
def test_mistakes_name_the_option_and_change_nothing(arguments: dict[str, Any], words: str) -> None:
    model = Cnn()
    types = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=words):
        ecograph.optimize(model, **arguments)
    assert [type(m) for m in model.modules()] == types
    assert not records(model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"recipe": "exact"}, "no pass to apply"),
        ({"passes": []}, "no pass to apply"),
        ({"passes": [SparseBackward(0)]}, "of 3 layers none was rewritten: drop is 0"),
        ({"passes": [SparseBackward(min_channels=999)]}, "first layer.*min_channels=999"),
        ({"skip": ["stem", "body", "head"]}, "named in skip"),
    ],
)
def test_no_effect_warns_with_the_reason(arguments: dict[str, Any], words: str) -> None:
    plain, model, x = twin("Cnn")
    with pytest.warns(ecograph.NoEffectWarning, match=words) as caught:
        ecograph.optimize(model, **arguments)
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert_equal(step(model, x), step(plain, x))
    ecograph.restore(model)


def test_a_model_without_products_warns() -> None:
    with pytest.warns(ecograph.NoEffectWarning, match="no convolution or linear layer"):
        ecograph.optimize(nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def test_recipes_and_names_choose_passes() -> None:
    by_default = ecograph.optimize(wide())
    by_name = ecograph.optimize(wide(), passes=["sparse_backward"])
    by_instance = ecograph.optimize(wide(), passes=[SparseBackward()])
    reports = [ecograph.explain(model).to_dict() for model in (by_default, by_name, by_instance)]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["passes"][0]["drop"] == 0.8
    with pytest.warns(ecograph.NoEffectWarning, match="'sliceout' had no effect.*give example_inputs"):
        aggressive = ecograph.optimize(wide(), recipe="aggressive")
    assert ecograph.explain(aggressive).to_dict()["layers"] == reports[0]["layers"]
    both = ecograph.explain(ecograph.optimize(wide(), recipe="aggressive", example_inputs=torch.randn(4096, 64)))
    assert [each["name"] for each in both.passes] == ["sparse_backward", "sliceout"]
    assert "sliceout + sparse_backward" in {layer.rewritten_by for layer in both.layers}
    assert both.saved_by("sliceout") > 0 and both.saved_by("sparse_backward") > 0
    assert both.before.total - both.after.total == both.saved_by("sliceout") + both.saved_by("sparse_backward")


@pytest.mark.parametrize("rows", [8, 4096])
def test_without_example_inputs_the_first_training_batch_decides_the_same(rows: int) -> None:
    x = torch.randn(rows, 64)
    passes = [SparseBackward(0.8, schedule="constant")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ecograph.NoEffectWarning)
        with_inputs = ecograph.optimize(wide(), example_inputs=x, passes=passes)
    model = ecograph.optimize(wide(), passes=passes)
    before = ecograph.explain(model)
    assert [layer.reason for layer in before.layers] == [
        "first layer (skip_first)", "decided at the first training batch", "last layer (skip_last)",
    ]  # fmt: skip
    assert before.layers[1].before is None
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    assert ecograph.explain(model).layers[1].reason == "decided at the first training batch"
    first = step(model, x)
    assert first["grad 2.bias"].count_nonzero() > 200, "the batch that decides is dense"
    after, want = ecograph.explain(model), ecograph.explain(with_inputs)
    assert [layer.rewritten_by for layer in after.layers] == [layer.rewritten_by for layer in want.layers]
    assert bool(after.layers[1].rewritten_by) is (rows == 4096)
    assert after.layers[1].before == want.layers[1].before
    assert after.layers[1].after == want.layers[1].after
    assert (int(step(model, x)["grad 2.bias"].count_nonzero()) == 51) is (rows == 4096)


def test_what_could_not_be_captured_is_said() -> None:
    class Unrolled(Addmm):
        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], 8)

    with pytest.warns(ecograph.NoEffectWarning, match="could not be captured.*give example_inputs"):
        ecograph.optimize(Unrolled(), passes=[all_sparse()])
    assert is_sparse(ecograph.optimize(Unrolled(), example_inputs=torch.randn(2, 6), passes=[all_sparse()]))


def test_a_routed_layer_too_is_decided_at_the_first_batch_even_a_dense_one() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Addmm(), nn.Linear(8, 2))
    ecograph.optimize(model, passes=[SparseBackward(0.8, min_channels=1)])
    assert ecograph.explain(model).layers[1].reason == "decided at the first training batch"
    step(model, torch.randn(4, 6))
    assert "does not pay" in ecograph.explain(model).layers[1].reason


def test_integer_inputs_work() -> None:
    plain, model, x = twin("tied weights")
    ecograph.optimize(model, example_inputs=x, passes=[all_sparse()])
    found, expected = step(model, x), step(plain, x)
    assert torch.equal(found["output"], expected["output"])
    assert found["grad embed.weight"].shape == (11, 6)


def test_tied_weights_add_both_gradients() -> None:
    """The embedding's gradient is dense, the head's sparse; torch adds them into the one parameter."""
    plain, model, x = twin("tied weights", torch.float64)
    ecograph.optimize(model, passes=[all_sparse()], skip=["mix"])
    found = step(model, x)["grad embed.weight"]

    from ecograph.passes.sparse_backward import sparse_linear

    table = plain.embed.weight
    hidden = torch.tanh(plain.mix(F.embedding(x, table)))
    output = sparse_linear(hidden, table, keep=5)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    (expected,) = torch.autograd.grad((output * weights).sum(), table)
    torch.testing.assert_close(found, expected)
    assert model.out.weight is model.embed.weight


@pytest.mark.parametrize("with_inputs", [True, False])
def test_a_shared_layer_is_one_layer_called_twice(with_inputs: bool) -> None:
    _, model, x = twin("shared layer")
    ecograph.optimize(model, example_inputs=x if with_inputs else None, passes=[all_sparse()])
    names = [layer.name for layer in ecograph.explain(model).layers]
    assert names == ["first", "first (call 2)", "last"]
    assert model.first is model.alias


def test_capture_and_rewriting_leave_no_trace() -> None:
    model = Cnn()
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    random_state = torch.get_rng_state()
    ecograph.optimize(model, example_inputs=torch.randn(2, 3, 6, 6, generator=torch.Generator()), passes=[all_sparse()])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_a_model_on_meta_is_optimized_and_then_given_data() -> None:
    with torch.device("meta"):
        model = Cnn()
    ecograph.optimize(model, example_inputs=torch.randn(2, 3, 6, 6), passes=[all_sparse()])
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.norm.reset_running_stats()
    found = step(model, torch.randn(2, 3, 6, 6))
    assert found["grad stem.weight"].flatten(1).abs().sum(1).count_nonzero() == 4


def test_gradient_accumulation_adds_sparse_gradients() -> None:
    _, model, _ = twin("one layer")
    ecograph.optimize(model, passes=[all_sparse(0.75)])
    batches = [torch.randn(4, 6) for _ in range(3)]
    each = []
    for x in batches:
        model.zero_grad()
        (model(x) ** 3).sum().backward()
        each.append(model.weight.grad.clone())
    model.zero_grad()
    for x in batches:
        (model(x) ** 3).sum().backward()
    torch.testing.assert_close(model.weight.grad, sum(each))
    assert all(g.abs().sum(1).count_nonzero() == 2 for g in each)


def test_a_moving_average_of_the_model_is_taken_as_always() -> None:
    plain, model, x = twin("Cnn")
    ecograph.optimize(model, passes=[all_sparse()])
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    reference = torch.optim.swa_utils.AveragedModel(plain, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for _ in range(2):
        with torch.no_grad():
            for module in (plain, model):
                for parameter in module.parameters():
                    parameter.mul_(1.1)
        average.update_parameters(model)
        reference.update_parameters(plain)
    assert list(average.state_dict()) == list(reference.state_dict())
    for key, value in reference.state_dict().items():
        assert torch.equal(average.state_dict()[key], value)
    assert torch.equal(average.eval()(x), reference.eval()(x))


def test_non_finite_gradients_reach_every_parameter_they_reach_densely() -> None:
    plain, model, x = twin("Cnn")
    ecograph.optimize(model, passes=[all_sparse(0.9)])
    finite = []
    for each in (plain, model):
        each.zero_grad()
        output = each(x)
        (output.sum() * math.inf).backward()
        finite.append({name: bool(p.grad.isfinite().all()) for name, p in each.named_parameters()})
    assert finite[0] == finite[1]
    assert not any(finite[0].values())
