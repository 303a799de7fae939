"""sparse_linear against the masked dense product of torch, in float64."""

from __future__ import annotations

import math
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ecograph.passes.sparse_backward import sparse_linear

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


def leaves_of(
    leading: tuple[int, ...], c_in: int = 5, c_out: int = 8, *, bias: bool = True, layout: str = "rows"
) -> list[Tensor | None]:
    weight = torch.randn(c_out, c_in, dtype=torch.float64)
    if layout == "columns":  # the transposed view of an (in, out) parameter
        weight = torch.randn(c_in, c_out, dtype=torch.float64).t()
    if layout == "slice":  # a part of a packed weight
        weight = torch.randn(3 * c_out, 2 * c_in, dtype=torch.float64)[c_out : 2 * c_out, ::2]
    return [
        torch.randn(*leading, c_in, dtype=torch.float64, requires_grad=True),
        weight.detach().requires_grad_(),
        torch.randn(c_out, dtype=torch.float64, requires_grad=True) if bias else None,
    ]


def sparse_grads(leaves: list[Tensor | None], cotangent: Tensor, **options: Any) -> list[Tensor | None]:
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    found = iter(torch.autograd.grad(sparse_linear(*leaves, **options), wanted, cotangent))
    return [next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves]


def assert_close(found: list[Tensor | None], expected: list[Tensor | None], **tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("layout", ["rows", "columns", "slice"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("leading", [(), (1,), (6,), (2, 3), (2, 1, 3, 2)], ids=str)
def test_gradients_are_those_of_the_masked_dense_backward(
    leading: tuple[int, ...], bias: bool, layout: str, oracle: Any
) -> None:
    leaves = leaves_of(leading, bias=bias, layout=layout)
    expected = F.linear(*leaves)
    cotangent = torch.randn_like(expected)
    for keep in (1, 3, 7):
        output = sparse_linear(*leaves, keep=keep)
        assert output.stride() == expected.stride()
        assert torch.equal(output, expected)
        found = sparse_grads(leaves, cotangent, keep=keep)
        assert_close(found, oracle(F.linear, leaves, cotangent, keep, dim=-1))
        assert found[1].abs().sum(1).count_nonzero() == keep
        assert [g.shape for g in found if g is not None] == [
            leaf.shape for leaf in leaves if leaf is not None
        ]
        if layout != "slice":
            assert found[1].stride() == leaves[1].stride()


@pytest.mark.parametrize("grads", [(True, False), (False, True)], ids=["input", "weight"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_one_gradient_alone_is_sparse(grads: tuple[bool, bool], layout: str, oracle: Any) -> None:
    leaves = leaves_of((2, 3), layout=layout)
    cotangent = torch.randn(2, 3, 8, dtype=torch.float64)
    found = sparse_grads(leaves, cotangent, keep=3, grads=grads)
    assert_close(found, oracle(F.linear, leaves, cotangent, 3, dim=-1, grads=grads))


@pytest.mark.parametrize("layout", ["input permuted", "gradient permuted", "gradient expanded"])
def test_odd_layouts(layout: str, oracle: Any) -> None:
    leaves = leaves_of((4, 3))
    cotangent = torch.randn(4, 3, 8, dtype=torch.float64)
    if layout == "input permuted":
        leaves[0] = torch.randn(5, 4, 3, dtype=torch.float64).permute(1, 2, 0).requires_grad_()
    elif layout == "gradient permuted":
        cotangent = torch.randn(8, 3, 4, dtype=torch.float64).permute(2, 1, 0)
    else:
        cotangent = torch.randn(8, dtype=torch.float64).expand(4, 3, 8)
    assert_close(sparse_grads(leaves, cotangent, keep=3), oracle(F.linear, leaves, cotangent, 3, dim=-1))


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    leading=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    c_in=st.integers(1, 6),
    c_out=st.integers(2, 9),
    share=st.floats(0.01, 0.99),
    bias=st.booleans(),
    layout=st.sampled_from(["rows", "columns", "slice"]),
)
def test_any_configuration(
    leading: tuple[int, ...], c_in: int, c_out: int, share: float, bias: bool, layout: str
) -> None:
    torch.manual_seed(1)
    leaves = leaves_of(leading, c_in, c_out, bias=bias, layout=layout)
    keep = min(max(1, int(share * c_out)), c_out - 1)
    cotangent = torch.randn(*leading, c_out, dtype=torch.float64)
    scores = cotangent.reshape(-1, c_out).abs().sum(0)
    masked = cotangent * (scores >= scores.sort(descending=True).values[keep - 1])
    wanted = [leaf for leaf in leaves if leaf is not None]
    expected = [*torch.autograd.grad(F.linear(*leaves), wanted, masked), *[None] * (not bias)]
    assert_close(sparse_grads(leaves, cotangent, keep=keep), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_low_precision_stays_in_its_dtype_and_near_float64(
    dtype: torch.dtype, layout: str, oracle: Any
) -> None:
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves_of((4, 6), layout=layout)]
    output = sparse_linear(*leaves, keep=3)
    assert output.dtype == dtype
    assert torch.equal(output, F.linear(*leaves))
    cotangent = torch.randn_like(output)
    found = sparse_grads(leaves, cotangent, keep=3)
    assert {g.dtype for g in found} == {dtype}
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    tolerance = 20 * torch.finfo(dtype).eps
    for ours, theirs in zip(found, oracle(F.linear, exact, cotangent.double(), 3, dim=-1), strict=True):
        torch.testing.assert_close(
            ours.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item()
        )


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "matmul"):
            self.shapes.append((tuple(args[-2].shape), tuple(args[-1].shape)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    "wants",
    [
        (True, True, True),
        (False, True, True),
        (True, False, False),
        (False, True, False),
        (True, True, False),
    ],
)
def test_only_the_gradients_asked_for_are_computed(wants: tuple[bool, ...], grads: tuple[bool, bool]) -> None:
    leaves = [leaf.detach().requires_grad_(want) for leaf, want in zip(leaves_of((2, 3)), wants, strict=True)]
    output = sparse_linear(*leaves, keep=3, grads=grads)
    with Products() as seen:
        output.backward(torch.ones_like(output))
    channels = {True: 3, False: 8}
    expected = []
    if wants[0]:
        expected.append(((6, channels[grads[0]]), (channels[grads[0]], 5)))
    if wants[1]:
        expected.append(((channels[grads[1]], 6), (6, 5)))
    assert seen.shapes == expected
    assert [leaf.grad is not None for leaf in leaves] == list(wants)


def test_flop_counter_sees_the_sparse_backward() -> None:
    leaves = leaves_of((2, 3))
    with FlopCounterMode(display=False) as counter:
        sparse_linear(*leaves, keep=2).sum().backward()
    forward = 2 * 6 * 5 * 8
    assert counter.get_total_flops() == forward + 2 * forward * 2 // 8


@pytest.mark.parametrize("random", [False, True], ids=["topk", "random"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("channels", [(1,), (0, 2, 4, 5)], ids=["one", "more than kept"])
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)])
def test_what_is_not_finite_is_never_lost(
    channels: tuple[int, ...], bad: float, random: bool, grads: tuple[bool, bool]
) -> None:
    leaves = leaves_of((2, 3))
    for seed in range(5 if random else 1):
        torch.manual_seed(seed)
        cotangent = torch.randn(2, 3, 8, dtype=torch.float64)
        cotangent[0, 1, list(channels)] = bad
        found = sparse_grads(leaves, cotangent, keep=2, random=random, grads=grads)
        dense = torch.autograd.grad(F.linear(*leaves), leaves, cotangent)
        assert not found[0].isfinite().all()
        finite = [channel not in channels for channel in range(8)]
        for index in (1, 2):
            for gradient in (found[index], dense[index]):
                assert gradient.view(8, -1).isfinite().all(1).tolist() == finite


def test_random_features_follow_the_seed() -> None:
    leaves = leaves_of((4,))
    cotangent = torch.randn(4, 8, dtype=torch.float64)

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sparse_grads(leaves, cotangent, keep=3, random=True)[1]

    assert torch.equal(draw(3), draw(3))
    kept = torch.stack([draw(seed) for seed in range(8)]).abs().sum(2).ne(0)
    assert kept.sum(1).eq(3).all()
    assert len({tuple(row.tolist()) for row in kept}) > 1


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_unbiased_draws_average_to_the_dense_gradient(layout: str) -> None:
    leaves = leaves_of((6,), layout=layout)
    cotangent = torch.randn(6, 8, dtype=torch.float64)
    dense = torch.autograd.grad(F.linear(*leaves), leaves, cotangent)
    torch.manual_seed(0)
    draws = [sparse_grads(leaves, cotangent, keep=3, random=True, unbiased=True) for _ in range(900)]
    biased = [sparse_grads(leaves, cotangent, keep=3, random=True) for _ in range(900)]
    for index, target in enumerate(dense):
        stacked = torch.stack([draw[index] for draw in draws])
        z = (stacked.mean(0) - target) / (stacked.std(0) / 30).clamp_min(1e-12)
        assert z.abs().max() < 5
        assert z.square().mean() < 2
        # The test can fail: without the scaling the same statistic is far off.
        stacked = torch.stack([draw[index] for draw in biased])
        z = (stacked.mean(0) - target) / (stacked.std(0) / 30).clamp_min(1e-12)
        assert z.square().mean() > 20


@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_second_derivatives(layout: str) -> None:
    leaves = leaves_of((3,), layout=layout)
    weights = torch.linspace(1, 2, 8, dtype=torch.float64)[torch.randperm(8)]

    def gradients(*given: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            sparse_linear(*given[:3], keep=3), given[:3], given[3] * weights, create_graph=True
        )

    cotangent = (1 + 0.01 * torch.rand(3, 8, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(gradients, (*leaves, cotangent))


def test_torch_func_grad(oracle: Any) -> None:
    leaves = leaves_of((2, 3))
    cotangent = torch.randn(2, 3, 8, dtype=torch.float64)

    def loss(*given: Tensor) -> Tensor:
        return (sparse_linear(*given, keep=3) * cotangent).sum()

    found = torch.func.grad(loss, argnums=(0, 1, 2))(*(leaf.detach() for leaf in leaves))
    assert_close(list(found), oracle(F.linear, leaves, cotangent, 3, dim=-1))


def test_retracing_keeps_the_op_and_its_backward() -> None:
    leaves = leaves_of((2, 3))

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.relu(sparse_linear(x, w, b, keep=2))

    traced = torch.fx.symbolic_trace(function)
    again = torch.fx.symbolic_trace(traced)
    for each in (traced, again):
        assert [n.target for n in each.graph.nodes if n.op == "call_function"] == [sparse_linear, torch.relu]
        each(*leaves).sum().backward()
        assert leaves[1].grad.abs().sum(1).count_nonzero() == 2
        leaves[1].grad = None


def test_make_fx_traces_the_sparse_backward(oracle: Any) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves = leaves_of((6,))

    def step(x: Tensor, w: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sparse_linear(x, w, b, keep=3), (x, w, b), g)

    traced = make_fx(step)(*leaves, torch.randn(6, 8, dtype=torch.float64))
    other = torch.randn(6, 8, dtype=torch.float64)
    assert_close(list(traced(*leaves, other)), oracle(F.linear, leaves, other, 3, dim=-1))


# Tracing and compiling, torch calls what it has deprecated itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("layout", "backend"),
    [("rows", "aot_eager"), ("columns", "aot_eager"), pytest.param("rows", "inductor", marks=NEEDS_COMPILER)],
)
def test_compiles_whole_with_the_same_gradients(layout: str, backend: str) -> None:
    leaves = [leaf.detach().float().requires_grad_() for leaf in leaves_of((2, 3), layout=layout)]

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sparse_linear(x, w, b, keep=2)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    cotangent = torch.randn(2, 3, 8)
    found = torch.autograd.grad(compiled(*leaves), leaves, cotangent)
    want = torch.autograd.grad(function(*leaves), leaves, cotangent)
    assert_close(list(found), list(want), rtol=1e-5, atol=1e-5)
