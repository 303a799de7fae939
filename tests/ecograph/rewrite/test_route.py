"""Products in custom modules: which are computed sparsely, and that nothing else is touched."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ecograph
from ecograph.passes import SparseBackward
from ecograph.rewrite.route import RoutedForward

ALL = {"schedule": "constant", "when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}
PASS = SparseBackward(0.5, **ALL)


class Net(nn.Module):
    """Parameters, and a forward that is a function of the module and the input."""

    def __init__(self, forward: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, dtype=torch.float64)))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def rows() -> Tensor:
    return torch.randn(5, 6, dtype=torch.float64)


def image() -> Tensor:
    return torch.randn(2, 4, 5, 5, dtype=torch.float64)


#: how the product is written; the parameters; the input; along which dimension of "w" output channels lie
WAYS: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], Callable[[], Tensor], int]] = {
    "F.linear": (lambda m, x: F.linear(x, m.w, m.b), {"w": (8, 6), "b": (8,)}, rows, 0),
    "F.linear by name": (lambda m, x: F.linear(weight=m.w, input=x), {"w": (8, 6)}, rows, 0),
    "addmm": (lambda m, x: torch.addmm(m.b, x, m.w), {"w": (6, 8), "b": (8,)}, rows, 1),
    "addmm, a row of bias": (lambda m, x: torch.addmm(m.b, x, m.w), {"w": (6, 8), "b": (1, 8)}, rows, 1),
    "addmm, a scalar bias": (lambda m, x: torch.addmm(m.b, x, m.w), {"w": (6, 8), "b": (1,)}, rows, 1),
    "Tensor.addmm": (lambda m, x: m.b.addmm(x, m.w), {"w": (6, 8), "b": (8,)}, rows, 1),
    "matmul": (lambda m, x: torch.matmul(x, m.w), {"w": (6, 8)}, rows, 1),
    "Tensor.matmul": (lambda m, x: x.matmul(m.w), {"w": (6, 8)}, rows, 1),
    "@": (lambda m, x: x @ m.w, {"w": (6, 8)}, rows, 1),
    "mm": (lambda m, x: x.mm(m.w), {"w": (6, 8)}, rows, 1),
    "@ w.T": (lambda m, x: x @ m.w.T, {"w": (8, 6)}, rows, 0),
    "@ w.t()": (lambda m, x: x @ m.w.t(), {"w": (8, 6)}, rows, 0),
    "@ w.mT": (lambda m, x: x @ m.w.mT, {"w": (8, 6)}, rows, 0),
    "transpose by keyword": (lambda m, x: x @ torch.transpose(input=m.w, dim0=0, dim1=1), {"w": (8, 6)}, rows, 0),
    "permute": (lambda m, x: x @ m.w.permute(1, 0), {"w": (8, 6)}, rows, 0),
    "batched input": (lambda m, x: x.view(1, 5, 6) @ m.w, {"w": (6, 8)}, rows, 1),
    "scaled weight": (lambda m, x: F.linear(x, m.w * m.g), {"w": (8, 6), "g": (8, 1)}, rows, 0),
    "weight in pieces": (lambda m, x: F.linear(x, torch.cat([m.w, m.v])), {"w": (4, 6), "v": (4, 6)}, rows, 0),
    "conv2d": (lambda m, x: F.conv2d(x, m.w, m.b, padding=1), {"w": (8, 4, 3, 3), "b": (8,)}, image, 0),
    "conv2d by name": (lambda m, x: F.conv2d(input=x, weight=m.w, padding="same"), {"w": (8, 4, 3, 3)}, image, 0),
    "conv2d, grouped": (lambda m, x: F.conv2d(x, m.w, None, 1, 0, 1, 2), {"w": (8, 2, 3, 3)}, image, 0),
    "torch.conv2d": (lambda m, x: torch.conv2d(x, m.w), {"w": (8, 4, 3, 3)}, image, 0),
    "conv_transpose2d": (
        lambda m, x: F.conv_transpose2d(x, m.w, stride=2, output_padding=1),
        {"w": (4, 8, 3, 3)},
        image,
        1,
    ),
    "standardized": (
        lambda m, x: F.conv2d(x, F.layer_norm(m.w, m.w.shape[1:]) * m.g),
        {"w": (8, 4, 3, 3), "g": (8, 1, 1, 1)},
        image,
        0,
    ),
}


def grads(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    output = model(x)
    weights = torch.linspace(-1, 3, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    return {"x": x.grad, "output": output.detach(), **{n: p.grad for n, p in model.named_parameters()}}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_a_product(way: str) -> None:
    function, shapes, make_input, dim = WAYS[way]
    model, x = Net(function, **shapes), make_input()
    plain = copy.deepcopy(model)
    ecograph.optimize(model, example_inputs=x, passes=[PASS])
    assert [layer.rewritten_by for layer in ecograph.explain(model).layers] == ["sparse_backward"]
    found, expected = grads(model, x), grads(plain, x)
    if "bias" in way:  # such a bias is added to the product, not fused with it
        torch.testing.assert_close(found["output"], expected["output"])
    else:
        assert torch.equal(found["output"], expected["output"])
    used = found["w"].transpose(0, dim).flatten(1).abs().sum(1).ne(0)
    if way == "weight in pieces":
        used = torch.cat([used, found["v"].abs().sum(1).ne(0)])
    if way == "standardized":
        assert used.sum() == 4
        return
    assert used.sum() == 4, "half of eight channels"
    if way not in ("scaled weight", "weight in pieces"):
        full = expected["w"].transpose(0, dim)
        torch.testing.assert_close(found["w"].transpose(0, dim)[used], full[used])
    if "b" in shapes and shapes["b"] == (8,):
        torch.testing.assert_close(found["b"], expected["b"] * used)
    elif "b" in shapes:
        torch.testing.assert_close(found["b"], expected["b"])


def test_alpha_and_beta_are_left_alone_with_the_reason() -> None:
    model = Net(lambda m, x: torch.addmm(m.b, x, m.w, alpha=2) + x @ m.v, w=(6, 8), b=(8,), v=(6, 8))
    plain, x = copy.deepcopy(model), rows()
    ecograph.optimize(model, example_inputs=x, passes=[PASS])
    reasons = {layer.name: layer.reason for layer in ecograph.explain(model).layers}
    assert "alpha" in reasons["w"] and reasons["v"] == ""
    found, expected = grads(model, x), grads(plain, x)
    assert torch.equal(found["w"], expected["w"])
    assert not torch.equal(found["v"], expected["v"])


def test_a_low_rank_weight_is_one_sparse_product() -> None:
    """The product that makes the weight stays dense; the product with it is sparse."""
    model = Net(lambda m, x: F.linear(x, m.up @ m.down), up=(8, 2), down=(2, 6))
    plain, x = copy.deepcopy(model), rows()
    ecograph.optimize(model, example_inputs=x, passes=[PASS])
    found, expected = grads(model, x), grads(plain, x)
    assert torch.equal(found["output"], expected["output"])
    assert found["up"].abs().sum(1).count_nonzero() == 4
    assert found["down"].count_nonzero() == found["down"].numel()


class TinyLanguageModel(nn.Module):
    """Embedding, attention and head in one forward, all from one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(11, 6, dtype=torch.float64))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = F.embedding(ids, self.table)
        scores = torch.softmax(hidden @ hidden.transpose(-1, -2), -1)
        return (scores @ hidden) @ self.table.t()


@pytest.mark.parametrize("shape", [(2, 5), (5,)], ids=["batched", "one sequence"])
def test_products_of_activations_are_not_touched(shape: tuple[int, ...]) -> None:
    from ecograph.passes.sparse_backward import sparse_linear

    model = TinyLanguageModel()
    ids = torch.randint(0, 11, shape)
    ecograph.optimize(model, example_inputs=ids, passes=[PASS])
    output = model(ids)
    weights = torch.linspace(-1, 3, output.numel(), dtype=output.dtype).view_as(output)
    (found,) = torch.autograd.grad((output * weights).sum(), model.table)

    table = model.table.detach().clone().requires_grad_()
    hidden = F.embedding(ids, table)
    mixed = torch.softmax(hidden @ hidden.transpose(-1, -2), -1) @ hidden
    (expected,) = torch.autograd.grad((sparse_linear(mixed, table, keep=5) * weights).sum(), table)
    torch.testing.assert_close(found, expected)


def test_python_in_the_forward_stays_live() -> None:
    model = Net(lambda m, x: (x @ m.w) * (2 if m.double else 1), w=(6, 8))
    model.double = False
    x = rows()
    ecograph.optimize(model, example_inputs=x, passes=[PASS])
    once = model(x)
    model.double = True
    assert torch.equal(model(x), 2 * once)


def test_other_modules_inside_are_run_as_they_are() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 8).double()
            self.w = nn.Parameter(torch.randn(8, 8, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) @ self.w

    model, x = Block(), rows()
    plain = copy.deepcopy(model)
    ecograph.optimize(model, example_inputs=x, passes=[PASS], skip=["inner"])
    cotangent = torch.randn(5, 8, dtype=torch.float64)
    for each in (model, plain):
        each(x).backward(cotangent)
    strongest = cotangent.abs().sum(0).topk(4).indices
    masked = torch.zeros_like(cotangent)
    masked[:, strongest] = cotangent[:, strongest]
    plain.zero_grad()
    plain(x).backward(masked)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad)


class Untouchable(nn.Module):
    """Watches which torch functions run under a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 8))
        self.modes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(torch._C._len_torch_function_stack())
        return x @ self.w


def test_nothing_is_watched_where_nothing_is_sparse() -> None:
    model = Untouchable()
    alternate = SparseBackward(0.5, **{**ALL, "schedule": "alternate"})
    ecograph.optimize(model, example_inputs=torch.randn(5, 6), passes=[alternate])
    model.modes.clear()
    model(torch.randn(5, 6))  # dense phase
    model(torch.randn(5, 6))  # sparse phase
    model.eval()(torch.randn(5, 6))
    assert model.modes == [0, 1, 0]


def test_the_signature_and_identity_of_forward_can_be_asked() -> None:
    model = Net(lambda m, x: x @ m.w, w=(6, 8))
    expected = inspect.signature(model.forward)
    ecograph.optimize(model, example_inputs=rows(), passes=[PASS])
    assert isinstance(model.forward, RoutedForward)
    assert inspect.signature(model.forward) == expected
    assert type(model) is Net


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", ["addmm", "@ w.T", "scaled weight", "standardized", "conv_transpose2d", "F.linear"])
def test_routed_products_compile_whole(way: str) -> None:
    function, shapes, make_input, _ = WAYS[way]
    model, x = Net(function, **shapes), make_input()
    ecograph.optimize(model, example_inputs=x, passes=[PASS])
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found, expected = grads(compiled, x), grads(model, x)
    for key, value in expected.items():
        torch.testing.assert_close(found[key if key in found else f"_orig_mod.{key}"], value)


@pytest.mark.parametrize("packed", ["self", "cross", "different widths"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_projections_of_attention(packed: str, need_weights: bool) -> None:
    widths: dict[str, Any] = {"kdim": 6, "vdim": 10} if packed == "different widths" else {}
    attend = nn.MultiheadAttention(8, 2, batch_first=True, **widths).double()
    plain = copy.deepcopy(attend)
    query = torch.randn(2, 5, 8, dtype=torch.float64)
    key, value = query, query
    if packed == "cross":
        key = value = torch.randn(2, 3, 8, dtype=torch.float64)
    if packed == "different widths":
        key, value = torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 3, 10, dtype=torch.float64)
    inputs = ((query, key, value), {"need_weights": need_weights})
    ecograph.optimize(attend, example_inputs=inputs, passes=[PASS])
    assert {layer.rewritten_by for layer in ecograph.explain(attend).layers} == {"sparse_backward"}
    found, expected = attend(*inputs[0], **inputs[1]), plain(*inputs[0], **inputs[1])
    assert torch.equal(found[0], expected[0])
    found[0].square().sum().backward()
    expected[0].square().sum().backward()
    assert attend.out_proj.bias.grad.count_nonzero() == 4
    name = "q_proj_weight" if packed == "different widths" else "in_proj_weight"
    gradient = attend.get_parameter(name).grad
    assert gradient.shape == attend.get_parameter(name).shape
    assert gradient.abs().sum(1).count_nonzero() == gradient.shape[0] // 2
    assert attend.get_parameter(name).grad.isfinite().all()


class MadeWithABuffer(nn.Module):
    """A product of a buffer and a parameter makes a weight, as in torch's orthogonal parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.weight = nn.Buffer(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.base @ self.weight)


def test_a_product_with_a_buffer_makes_a_weight_and_stays_plain() -> None:
    model, x = MadeWithABuffer(), torch.randn(3, 6)
    options = {"schedule": "constant", "when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}
    ecograph.optimize(model, example_inputs=x, passes=[SparseBackward(0.75, **options)])
    assert [layer.reason for layer in ecograph.explain(model).layers] == ["the other operand is a buffer", ""]
    cotangent = torch.randn(3, 8)
    model(x).backward(cotangent)
    kept = cotangent.abs().mean(0).topk(2).indices
    strongest = torch.zeros_like(cotangent).index_copy(1, kept, cotangent[:, kept])
    torch.testing.assert_close(model.weight.grad, model.base.T @ x.T @ strongest)
