"""sparse_conv against the masked dense convolution of torch, in float64."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ecograph.passes.sparse_backward import sparse_conv

PLAIN = {
    (1, False): F.conv1d, (2, False): F.conv2d, (3, False): F.conv3d,
    (1, True): F.conv_transpose1d, (2, True): F.conv_transpose2d, (3, True): F.conv_transpose3d,
}  # fmt: skip


def case(
    dims: int, c_in: int, c_out: int, size: tuple[int, ...], kernel: tuple[int, ...], **geometry: Any
) -> Any:
    options = {"stride": (1,) * dims, "padding": (0,) * dims, "dilation": (1,) * dims, "groups": 1} | geometry
    return c_in, c_out, size, kernel, options


CASES = {
    "1d": case(1, 4, 8, (9,), (3,)),
    "2d": case(2, 3, 10, (6, 5), (3, 3), padding=(1, 1)),
    "3d": case(3, 2, 6, (4, 5, 3), (2, 3, 2), padding=(1, 0, 1)),
    "pointwise": case(2, 6, 12, (4, 4), (1, 1)),
    "strided": case(2, 4, 8, (7, 8), (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": case(2, 4, 8, (9, 9), (3, 3), dilation=(2, 3), padding=(2, 1)),
    "grouped": case(2, 6, 12, (5, 5), (3, 3), groups=3, padding=(1, 1)),
    "grouped 1d": case(1, 4, 8, (9,), (3,), groups=2, stride=(2,)),
    "grouped 3d": case(3, 4, 8, (3, 4, 3), (2, 2, 2), groups=2),
    "one group per input channel": case(2, 4, 16, (5, 5), (3, 3), groups=4),
    "transposed 1d": case(1, 4, 8, (5,), (3,), transposed=True, stride=(2,), output_padding=(1,)),
    "transposed 2d": case(2, 4, 6, (4, 3), (3, 3), transposed=True, stride=(2, 2), padding=(1, 1)),
    "transposed 3d": case(3, 2, 6, (3, 2, 3), (2, 2, 2), transposed=True, stride=(1, 2, 1)),
    "transposed, output padding": case(
        2, 4, 8, (4, 4), (3, 3), transposed=True, stride=(2, 3), padding=(1, 0), output_padding=(1, 2)
    ),
    "transposed, grouped": case(2, 6, 12, (4, 4), (3, 3), transposed=True, groups=3, stride=(2, 2)),
    "transposed, dilated, grouped": case(
        1, 4, 8, (6,), (3,), transposed=True, groups=2, dilation=(2,), padding=(1,)
    ),
}


def leaves_of(
    c_in: int, c_out: int, size: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any], *,
    bias: bool = True, dtype: torch.dtype = torch.float64, batch: int = 3,
) -> list[Tensor | None]:  # fmt: skip
    groups = options["groups"]
    shape = (
        (c_in, c_out // groups, *kernel) if options.get("transposed") else (c_out, c_in // groups, *kernel)
    )
    return [
        torch.randn(batch, c_in, *size, dtype=dtype).requires_grad_(),
        torch.randn(shape, dtype=dtype).requires_grad_(),
        torch.randn(c_out, dtype=dtype).requires_grad_() if bias else None,
    ]


def plain(options: dict[str, Any]) -> Any:
    given = dict(options)
    function = PLAIN[len(given["stride"]), given.pop("transposed", False)]
    return lambda x, w, b: function(x, w, b, **given)


def sparse_grads(leaves: list[Tensor | None], cotangent: Tensor, **options: Any) -> list[Tensor | None]:
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    found = iter(torch.autograd.grad(sparse_conv(*leaves, **options), wanted, cotangent))
    return [next(found) if leaf is not None and leaf.requires_grad else None for leaf in leaves]


def assert_close(found: list[Tensor | None], expected: list[Tensor | None], **tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
        else:
            assert ours is not None
            torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_masked_dense_backward(name: str, bias: bool, oracle: Any) -> None:
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options, bias=bias)
    expected_output = plain(options)(*leaves)
    cotangent = torch.randn_like(expected_output)
    per_group = shapes[1] // options["groups"]
    for keep in {1, per_group // 2, per_group - 1}:
        torch.testing.assert_close(
            sparse_conv(*leaves, **options, keep=keep), expected_output, rtol=0, atol=0
        )
        found = sparse_grads(leaves, cotangent, **options, keep=keep)
        assert_close(found, oracle(plain(options), leaves, cotangent, keep, options["groups"]))
        kept = found[1].flatten(1).abs().sum(1).count_nonzero() if not options.get("transposed") else None
        assert kept is None or kept == keep * options["groups"]


@pytest.mark.parametrize("grads", [(True, False), (False, True)], ids=["input", "weight"])
@pytest.mark.parametrize("name", ["2d", "grouped", "transposed, grouped"])
def test_one_gradient_alone_is_sparse(name: str, grads: tuple[bool, bool], oracle: Any) -> None:
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options)
    cotangent = torch.randn_like(plain(options)(*leaves))
    found = sparse_grads(leaves, cotangent, **options, keep=2, grads=grads)
    assert_close(found, oracle(plain(options), leaves, cotangent, 2, options["groups"], grads=grads))


@pytest.mark.parametrize("memory", ["contiguous", "input", "weight", "both", "grad_output"])
@pytest.mark.parametrize("name", ["2d", "grouped", "3d", "transposed 2d", "transposed, grouped", "pointwise"])
def test_any_memory_format(name: str, memory: str, oracle: Any) -> None:
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options)
    last = torch.channels_last_3d if len(shapes[2]) == 3 else torch.channels_last
    for index, which in enumerate(("input", "weight")):
        if memory in (which, "both"):
            leaves[index] = leaves[index].detach().to(memory_format=last).requires_grad_()
    expected = plain(options)(*leaves)
    output = sparse_conv(*leaves, **options, keep=2)
    assert output.stride() == expected.stride()
    cotangent = torch.randn_like(expected)
    if memory == "grad_output":
        cotangent = cotangent.contiguous(memory_format=last)
    found = sparse_grads(leaves, cotangent, **options, keep=2)
    assert_close(found, oracle(plain(options), leaves, cotangent, 2, options["groups"]))
    # Strides: those of the input and of the parameter, except that a weight alone may decide the input's, as in torch.
    if memory != "weight":
        dense_input = torch.autograd.grad(expected, leaves[0], cotangent)[0]
        assert found[0].stride() == dense_input.stride()
    assert found[1].stride() == leaves[1].stride()
    if memory in ("input", "both") and last is torch.channels_last:  # torch itself drops it in 3d, in float64
        assert output.is_contiguous(memory_format=last)
        assert found[0].is_contiguous(memory_format=last)


@pytest.mark.parametrize(("name", "layout"), [("1d", "transposed"), ("2d", "expanded"), ("2d", "sliced")])
def test_gradients_in_odd_layouts(name: str, layout: str, oracle: Any) -> None:
    """What views behind the layer hand back: a transposed, broadcast or sliced gradient."""
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options)
    shape = plain(options)(*leaves).shape
    if layout == "transposed":
        cotangent = torch.randn(*shape[:-2], shape[-1], shape[-2], dtype=torch.float64).transpose(-1, -2)
    elif layout == "expanded":
        cotangent = torch.randn(shape[0], shape[1], *(1,) * len(shape[2:]), dtype=torch.float64).expand(shape)
    else:
        cotangent = torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64)[..., ::2]
    found = sparse_grads(leaves, cotangent, **options, keep=3)
    assert_close(found, oracle(plain(options), leaves, cotangent, 3))


def test_an_input_in_a_transposed_layout(oracle: Any) -> None:
    *shapes, options = CASES["1d"]
    leaves = leaves_of(*shapes, options)
    leaves[0] = torch.randn(3, 9, 4, dtype=torch.float64).transpose(1, 2).requires_grad_()
    cotangent = torch.randn_like(plain(options)(*leaves))
    assert_close(
        sparse_grads(leaves, cotangent, **options, keep=3), oracle(plain(options), leaves, cotangent, 3)
    )


@st.composite
def configurations(draw: st.DrawFn) -> tuple[int, int, tuple[int, ...], tuple[int, ...], dict[str, Any], int]:
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    transposed = draw(st.booleans())

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    kernel, dilation, stride, padding = each(1, 3), each(1, 2), each(1, 2), each(0, 1)
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 3)) for d, k in zip(dilation, kernel, strict=True))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        limits = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        output_padding = tuple(draw(st.integers(0, limit)) for limit in limits)
        options |= {"transposed": True, "output_padding": output_padding}
    per_group = draw(st.integers(2, 5))
    keep = draw(st.integers(1, per_group - 1))
    return groups * draw(st.integers(1, 3)), groups * per_group, size, kernel, options, keep


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(configuration=configurations(), bias=st.booleans())
def test_any_configuration(configuration: Any, bias: bool) -> None:
    *shapes, options, keep = configuration
    torch.manual_seed(1)
    leaves = leaves_of(*shapes, options, bias=bias, batch=2)
    try:
        output = plain(options)(*leaves)
    except RuntimeError:  # torch refuses an output without positions
        assume(False)
    cotangent = torch.randn_like(output)
    found = sparse_grads(leaves, cotangent, **options, keep=keep)
    groups = options["groups"]
    scores = cotangent.abs().movedim(1, 0).flatten(1).sum(1).view(groups, -1)
    threshold = scores.sort(1, descending=True).values[:, keep - 1 : keep]
    kept = (scores >= threshold).flatten().to(cotangent.dtype)
    assert kept.sum() == groups * keep
    masked = cotangent * kept.view(1, -1, *(1,) * len(shapes[1 + 1]))
    wanted = [leaf for leaf in leaves if leaf is not None]
    expected = list(torch.autograd.grad(output, wanted, masked)) + [None] * (not bias)
    assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["2d", "grouped", "transposed 2d", "1d"])
def test_low_precision_stays_in_its_dtype_and_near_float64(
    name: str, dtype: torch.dtype, oracle: Any
) -> None:
    *shapes, options = CASES[name]
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves_of(*shapes, options)]
    expected = plain(options)(*leaves)
    output = sparse_conv(*leaves, **options, keep=3)
    assert output.dtype == dtype
    assert torch.equal(output, expected)
    cotangent = torch.randn_like(output)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found = sparse_grads(leaves, cotangent, **options, keep=3)
    assert {g.dtype for g in found} == {dtype}
    tolerance = 20 * torch.finfo(dtype).eps
    want = oracle(plain(options), exact, cotangent.double(), 3, options["groups"])
    for ours, theirs in zip(found, want, strict=True):
        torch.testing.assert_close(
            ours.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item()
        )


class Calls(TorchDispatchMode):
    """Records every ATen call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((func.overloadpacket.__name__, args))
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
    *shapes, options = CASES["2d"]
    leaves = [
        leaf.detach().requires_grad_(want)
        for leaf, want in zip(leaves_of(*shapes, options), wants, strict=True)
    ]
    output = sparse_conv(*leaves, **options, keep=3, grads=grads)
    with Calls() as seen:
        output.backward(torch.ones_like(output))
    masks = [args[-1] for name, args in seen.calls if name == "convolution_backward"]
    channels = [args[0].shape[1] for name, args in seen.calls if name == "convolution_backward"]
    sparse_mask = [wants[0] and grads[0], wants[1] and grads[1], wants[2] and grads[1]]
    dense_mask = [wants[0] and not grads[0], wants[1] and not grads[1], wants[2] and not grads[1]]
    expected = [(m, c) for m, c in ((sparse_mask, 3), (dense_mask, 10)) if any(m)]
    assert list(zip(masks, channels, strict=True)) == expected
    assert [leaf.grad is not None for leaf in leaves] == list(wants)


def test_flop_counter_sees_the_sparse_backward() -> None:
    *shapes, options = CASES["2d"]
    leaves = leaves_of(*shapes, options)
    counts = {}
    for keep in (10, 5):
        with FlopCounterMode(display=False) as counter:
            sparse_conv(*leaves, **options, keep=keep).sum().backward()
        counts[keep] = Counter({str(op): n for op, n in counter.get_flop_counts()["Global"].items()})
    forward = 2 * 3 * 6 * 5 * 3 * 10 * 9
    assert counts[10] == {"aten.convolution": forward, "aten.convolution_backward": 2 * forward}
    assert counts[5] == {"aten.convolution": forward, "aten.convolution_backward": forward}


BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@pytest.mark.parametrize("random", [False, True], ids=["topk", "random"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["2d", "grouped", "transposed 2d", "transposed, grouped"])
@pytest.mark.parametrize("channels", [(1,), (0, 2, 4, 5)], ids=["one", "more than kept"])
def test_what_is_not_finite_is_never_lost(
    name: str, bad: str, channels: tuple[int, ...], random: bool
) -> None:
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options)
    for seed in range(5 if random else 1):
        torch.manual_seed(seed)
        cotangent = torch.randn_like(plain(options)(*leaves))
        for channel in channels:
            cotangent[0, channel].flatten()[0] = BAD[bad]
        found = sparse_grads(leaves, cotangent, **options, keep=1, random=random)
        dense = torch.autograd.grad(plain(options)(*leaves), leaves, cotangent)
        assert not dense[0].isfinite().all()
        assert not found[0].isfinite().all()
        groups, per_group = options["groups"], shapes[1] // options["groups"]
        for channel in range(shapes[1]):
            rows = [g[1] for g in (found, dense)]
            if options.get("transposed"):
                rows = [
                    r.unflatten(0, (groups, -1))[channel // per_group, :, channel % per_group] for r in rows
                ]
            else:
                rows = [r[channel] for r in rows]
            ours, theirs = rows
            assert ours.isfinite().all() == theirs.isfinite().all() == (channel not in channels)
            assert found[2][channel].isfinite() == dense[2][channel].isfinite()


def test_random_channels_follow_the_seed() -> None:
    *shapes, options = CASES["grouped"]
    leaves = leaves_of(*shapes, options)
    cotangent = torch.randn_like(plain(options)(*leaves))

    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sparse_grads(leaves, cotangent, **options, keep=2, random=True)[1]

    assert torch.equal(draw(3), draw(3))
    draws = torch.stack([draw(seed) for seed in range(8)])
    kept = draws.flatten(2).abs().sum(2).ne(0)
    assert kept.view(8, 3, 4).sum(2).eq(2).all(), "the same number in each group"
    assert len({tuple(row.tolist()) for row in kept}) > 1


@pytest.mark.parametrize("name", ["2d", "grouped", "transposed, grouped"])
def test_unbiased_draws_average_to_the_dense_gradient(name: str) -> None:
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options)
    cotangent = torch.randn_like(plain(options)(*leaves))
    dense = torch.autograd.grad(plain(options)(*leaves), leaves, cotangent)
    torch.manual_seed(0)
    draws = [
        sparse_grads(leaves, cotangent, **options, keep=2, random=True, unbiased=True) for _ in range(400)
    ]
    for index, target in enumerate(dense):
        stacked = torch.stack([draw[index] for draw in draws])
        standard_error = stacked.std(0) / 20
        z = (stacked.mean(0) - target) / standard_error.clamp_min(1e-12)
        assert z.abs().max() < 5
        assert z.square().mean() < 2


@pytest.mark.parametrize("name", ["2d", "grouped", "transposed 2d", "1d"])
def test_second_derivatives(name: str) -> None:
    """The kept channels are a constant choice: where no score is near a tie, the backward is differentiable."""
    *shapes, options = CASES[name]
    c_in, c_out, size, kernel = shapes
    leaves = leaves_of(c_in, c_out, tuple(min(s, 4) for s in size), kernel, options, batch=1)
    weights = torch.linspace(1, 2, c_out, dtype=torch.float64)[torch.randperm(c_out)]

    def gradients(*given: Tensor) -> tuple[Tensor, ...]:
        output = sparse_conv(*given[:3], **options, keep=1)
        cotangent = given[3] * weights.view(1, -1, *(1,) * len(size))
        return torch.autograd.grad(output, given[:2], cotangent, create_graph=True)

    output = plain(options)(*leaves)
    cotangent = (torch.ones_like(output) + 0.01 * torch.rand_like(output)).requires_grad_()
    assert torch.autograd.gradcheck(gradients, (*leaves, cotangent))


def test_torch_func_grad(oracle: Any) -> None:
    *shapes, options = CASES["2d"]
    leaves = leaves_of(*shapes, options)
    cotangent = torch.randn_like(plain(options)(*leaves))

    def loss(*given: Tensor) -> Tensor:
        return (sparse_conv(*given, **options, keep=3) * cotangent).sum()

    found = torch.func.grad(loss, argnums=(0, 1, 2))(*(leaf.detach() for leaf in leaves))
    assert_close(list(found), oracle(plain(options), leaves, cotangent, 3))


def test_retracing_keeps_the_op_and_its_backward(oracle: Any) -> None:
    *shapes, options = CASES["grouped"]
    leaves = leaves_of(*shapes, options)

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.relu(sparse_conv(x, w, b, **options, keep=2))

    traced = torch.fx.symbolic_trace(function)
    assert [n.target for n in traced.graph.nodes if n.op == "call_function"] == [sparse_conv, torch.relu]
    cotangent = torch.randn_like(plain(options)(*leaves))
    found = torch.autograd.grad(traced(*leaves), leaves, cotangent)
    want = torch.autograd.grad(function(*leaves), leaves, cotangent)
    assert_close(list(found), list(want), rtol=0, atol=0)
    assert found[1].flatten(1).abs().sum(1).count_nonzero() == 6


def test_make_fx_traces_the_sparse_backward(oracle: Any) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    *shapes, options = CASES["2d"]
    leaves = leaves_of(*shapes, options)
    cotangent = torch.randn_like(plain(options)(*leaves))

    def step(x: Tensor, w: Tensor, b: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sparse_conv(x, w, b, **options, keep=3), (x, w, b), g)

    traced = make_fx(step)(*leaves, cotangent)
    targets = [n.target for n in traced.graph.nodes if n.op == "call_function"]
    assert targets.count(torch.ops.aten.convolution_backward.default) == 1
    other = torch.randn_like(cotangent)
    assert_close(list(traced(*leaves, other)), oracle(plain(options), leaves, other, 3))


# Tracing and compiling, torch calls what it has deprecated itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["2d", "grouped", "transposed, grouped", "1d", "3d"])
def test_compiles_whole_with_the_same_gradients(name: str) -> None:
    *shapes, options = CASES[name]
    leaves = leaves_of(*shapes, options, dtype=torch.float32)

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sparse_conv(x, w, b, **options, keep=2)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    cotangent = torch.randn_like(function(*leaves))
    found = torch.autograd.grad(compiled(*leaves), leaves, cotangent)
    want = torch.autograd.grad(function(*leaves), leaves, cotangent)
    assert_close(list(found), list(want), rtol=1e-5, atol=1e-5)
