"""Against the full product with the units outside the slice multiplied by zero, in float64."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.analysis.layout import Segment
from ecograph.cost.flops import Flops
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer, over_groups
from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.schedule import Rate

OUT, IN = Segment(12, "o", 1, 12, 1), Segment(16, "i", 1, 8, 2)


def slices_of(drop: float = 0.5, normalization: str = "flow") -> dict[str, GroupSlice]:
    rate = SliceRate(drop, "constant")
    shapes = {"o": (12, 1), "i": (8, 2), "g": (4, 1), "heads": (4, 3)}
    return {
        name: GroupSlice(name, *shape, rate, align=1, starts="any", normalization=normalization, max_scale=3.0)
        for name, shape in shapes.items()
    }


def rate_of(slices: dict[str, GroupSlice]) -> SliceRate:
    return slices["o"].rate


def scales(layout: Any, slices: dict[str, GroupSlice]) -> Tensor:
    """The scale of each element in force."""
    factors: list[float] = []
    for segment in layout:
        if not segment.group:
            factors += [1.0] * segment.size
            continue
        scale = slices[segment.group].scale()
        units = scale.tolist() if isinstance(scale, Tensor) else [scale] * slices[segment.group].width
        factors += [f for _ in range(segment.outer) for f in units for _ in range(segment.inner)]
    return torch.tensor(factors, dtype=torch.float64)


def leaves(*shapes: tuple[int, ...] | None) -> list[Tensor | None]:
    return [None if shape is None else torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes]


def check(found: Tensor, expected: Tensor, ours: list[Tensor | None], theirs: list[Tensor | None]) -> None:
    """Values, and the gradients of leaves that are the same numbers."""
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    mine = torch.autograd.grad(found, [a for a, _ in pairs], cotangent)
    reference = torch.autograd.grad(expected, [b for _, b in pairs], cotangent)
    for a, b, (leaf, _) in zip(mine, reference, pairs, strict=True):
        torch.testing.assert_close(a, b)
        assert a.shape == leaf.shape


@pytest.mark.parametrize("normalization", ["flow", "probability"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("out", "inp"),
    [
        ((OUT,), None),
        (None, (IN,)),
        ((OUT,), (IN,)),
        ((Segment(36, "heads", 3, 4, 3),), (IN,)),
        ((Segment(4), OUT), (IN, Segment(3), OUT)),
    ],
)
def test_linear_is_the_masked_linear(out: Any, inp: Any, bias: bool, normalization: str, elements: Any) -> None:
    slices = slices_of(normalization=normalization)
    layer = SlicedLayer("fc", rate=rate_of(slices), out=out, inp=inp, slices=slices, scaled=inp is not None)
    wide_out, wide_in = (10 if each is None else sum(s.size for s in each) for each in (out, inp))
    weight, offset = leaves((wide_out, wide_in), (wide_out,) if bias else None)
    assert weight is not None
    for _ in range(5):
        rate_of(slices).tick()
        rows = elements(out, slices) if out else list(range(wide_out))
        columns = elements(inp, slices) if inp else list(range(wide_in))
        input = torch.randn(2, 3, len(columns), dtype=torch.float64, requires_grad=True)
        found = layer.linear(input, weight, offset)
        # The full network: what was cut off of its input is zero, the rest scaled.
        full = torch.zeros(2, 3, wide_in, dtype=torch.float64)
        scaled = input * scales(inp, slices) if inp else input
        full = full.index_copy(2, torch.tensor(columns), scaled)
        expected = F.linear(full, weight, offset).index_select(2, torch.tensor(rows))
        check(found, expected, [input, weight, offset], [input, weight, offset])


#: kind -> (weight shape, groups, transposed, out, inp, groups layout, C_out layout, C_in layout), of 12 and 16 channels
CONVS: dict[str, tuple[Any, ...]] = {
    "out": ((12, 16, 3), 1, False, (OUT,), None, None, (OUT,), (Segment(16),)),
    "in": ((12, 16, 3), 1, False, None, (IN,), None, (Segment(12),), (IN,)),
    "both": ((12, 16, 3), 1, False, (OUT,), (IN,), None, (OUT,), (IN,)),
    "transposed, both": ((16, 12, 3), 1, True, (OUT,), (IN,), None, (OUT,), (IN,)),
    "depthwise": (
        (4, 1, 3), 4, False, None, None, (Segment(4, "g", 1, 4, 1),),
        (Segment(4, "g", 1, 4, 1),), (Segment(4, "g", 1, 4, 1),),
    ),
    "whole groups": (
        (12, 4, 3), 4, False, None, None, (Segment(4, "g", 1, 4, 1),),
        (Segment(12, "g", 1, 4, 3),), (Segment(16, "g", 1, 4, 4),),
    ),
    "whole groups, all the output channels given": (
        (12, 4, 3), 4, False, (Segment(12, "g", 1, 4, 3),), None, (Segment(4, "g", 1, 4, 1),),
        (Segment(12, "g", 1, 4, 3),), (Segment(16, "g", 1, 4, 4),),
    ),
    "transposed, whole groups": (
        (16, 3, 3), 4, True, None, None, (Segment(4, "g", 1, 4, 1),),
        (Segment(12, "g", 1, 4, 3),), (Segment(16, "g", 1, 4, 4),),
    ),
    "output channels of every group": (
        (24, 8, 3), 2, False, (OUT,), None, None, (Segment(24, "o", 2, 12, 1),), (Segment(16),),
    ),
    "input channels of every group": (
        (24, 16, 3), 2, False, None, (IN,), None, (Segment(24),), (Segment(32, "i", 2, 8, 2),),
    ),
    "transposed, channels of every group": (
        (32, 12, 3), 2, True, (OUT,), (IN,), None,
        (Segment(24, "o", 2, 12, 1),), (Segment(32, "i", 2, 8, 2),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("normalization", ["flow", "probability"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", CONVS)
def test_conv_is_the_masked_conv(kind: str, dims: int, normalization: str, elements: Any) -> None:
    shape, groups, transposed, out, inp, group_layout, channels_out, channels_in = CONVS[kind]
    slices = slices_of(normalization=normalization)
    layer = SlicedLayer("conv", rate=rate_of(slices), out=out, inp=inp, groups=group_layout, slices=slices, scaled=True)
    wide_in, wide_out = (sum(s.size for s in each) for each in (channels_in, channels_out))
    weight, bias = leaves((*shape[:2], *[3] * dims), (wide_out,))
    assert weight is not None and bias is not None
    options: dict[str, Any] = {"stride": 2, "padding": 1}
    function = getattr(F, f"conv_transpose{dims}d" if transposed else f"conv{dims}d")
    if transposed:
        options["output_padding"] = 1
    for _ in range(3):
        rate_of(slices).tick()
        rows, columns = elements(channels_out, slices), elements(channels_in, slices)
        input = torch.randn(2, len(columns), *[5] * dims, dtype=torch.float64, requires_grad=True)
        found = layer.conv(input, weight, bias, **options, groups=groups, transposed=transposed)
        full = torch.zeros(2, wide_in, *[5] * dims, dtype=torch.float64)
        scale = scales(channels_in, slices).view(-1, *[1] * dims)
        full = full.index_copy(1, torch.tensor(columns), input * scale)
        expected = function(full, weight, bias, **options, groups=groups).index_select(1, torch.tensor(rows))
        check(found, expected, [input, weight, bias], [input, weight, bias])


def test_unscaled_layers_leave_the_weight_as_it_is() -> None:
    slices = slices_of()
    layer = SlicedLayer("fc", rate=rate_of(slices), inp=(IN,), slices=slices)
    weight, input = torch.randn(12, 16), torch.randn(2, 8)
    start = slices["i"].start * 2
    assert torch.equal(layer.linear(input, weight, None), F.linear(input, weight[:, start : start + 8]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_inactive_it_is_the_plain_function_bit_for_bit(dtype: torch.dtype) -> None:
    slices = slices_of()
    rate_of(slices).set(0.0)
    layer = SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), inp=(IN,), slices=slices, scaled=True)
    weight, bias, input = (torch.randn(shape, dtype=dtype) for shape in ((12, 16), (12,), (2, 16)))
    assert torch.equal(layer.linear(input, weight, bias), F.linear(input, weight, bias))
    found = layer.conv(input[:, :, None], weight[:, :, None], bias, padding="same")
    assert torch.equal(found, F.conv1d(input[:, :, None], weight[:, :, None], bias, padding="same"))
    assert not layer.active
    assert not layer.acts(True)


def sparse(drop: float = 0.5, channels: int = 12, because: str | None = "", schedule: str = "constant") -> SparseLayer:
    return SparseLayer(
        "fc", Rate(drop, schedule), channels=channels, grads=("input", "weight"), random=False, unbiased=False,
        align=1, dense_because=because,
    )  # fmt: skip


def test_a_sparse_layer_inside_sees_the_small_product(elements: Any) -> None:
    """The gradient is that of the small network's dense backward with its weakest output channels masked."""
    slices = slices_of()
    layer = SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), inp=(IN,), slices=slices, inner=sparse())
    weight, bias = leaves((12, 16), (12,))
    assert weight is not None and bias is not None
    input = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    rows, columns = torch.tensor(elements((OUT,), slices)), torch.tensor(elements((IN,), slices))
    found = layer.linear(input, weight, bias)
    expected = F.linear(input, weight[rows][:, columns], bias[rows])
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    strongest = cotangent.abs().sum(0).topk(3).indices
    masked = torch.zeros_like(cotangent)
    masked[:, strongest] = cotangent[:, strongest]
    mine = torch.autograd.grad(found, [input, weight, bias], cotangent)
    theirs = torch.autograd.grad(expected, [input, weight, bias], masked)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    signal = input[:, :, None].detach().requires_grad_()
    convolved = layer.conv(signal, weight[:, :, None], bias)
    (grad,) = torch.autograd.grad(convolved, bias, cotangent[:, :, None])
    torch.testing.assert_close(grad, theirs[2])


def test_what_the_layer_inside_has_yet_to_decide_shows() -> None:
    slices = slices_of()
    for because, shown in (("", ""), ("does not pay", ""), (None, None)):
        layer = SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), slices=slices, inner=sparse(because=because))
        assert layer.dense_because == shown
    assert SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), slices=slices).dense_because == ""
    assert layer.alone.inner is None
    assert layer.alone.out == layer.out
    assert layer.acts(True)


def test_another_width_than_at_optimize_is_named() -> None:
    slices = slices_of()
    layer = SlicedLayer("head", rate=rate_of(slices), out=(OUT,), inp=(IN,), slices=slices)
    with pytest.raises(ValueError, match=r"dimension 0 of the weight of head has 10 elements, and had 12.*optimize"):
        layer.linear(torch.randn(2, 8), torch.randn(10, 16), None)
    with pytest.raises(ValueError, match=r"dimension 1 of the weight of head has 14 elements, and had 16"):
        layer.linear(torch.randn(2, 8), torch.randn(12, 14), None)
    with pytest.raises(ValueError, match=r"the bias of head has 11"):
        layer.linear(torch.randn(2, 8), torch.randn(12, 16), torch.randn(11))
    grouped = SlicedLayer("dw", rate=rate_of(slices), groups=(Segment(4, "g", 1, 4, 1),), slices=slices)
    with pytest.raises(ValueError, match=r"dw has 2 groups, and had 4"):
        grouped.conv(torch.randn(2, 2, 5), torch.randn(4, 2, 3), None, groups=2)


def test_cost_shrinks_with_the_shares() -> None:
    slices, plain = slices_of(), Flops(1200, 1200, 1200, recomputed=1200)
    layer = SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), inp=(IN,), slices=slices)
    assert layer.shares(0.5) == (0.5, 0.5)
    assert layer.cost(plain, 0.5) == Flops(300, 300, 300, recomputed=300)
    assert layer.cost(plain, 0.25) == Flops(675, 675, 675, recomputed=675)
    assert layer.cost(plain, 0.0) == plain
    joined = SlicedLayer("fc", rate=rate_of(slices), inp=(IN, Segment(4)), slices=slices)
    assert joined.shares(0.5) == (1.0, 12 / 20)
    for out, inp in ((None, None), ((Segment(12, "g", 1, 4, 3),), (Segment(16, "g", 1, 4, 4),))):
        grouped = SlicedLayer(
            "dw", rate=rate_of(slices), out=out, inp=inp, groups=(Segment(4, "g", 1, 4, 1),), slices=slices
        )
        assert grouped.shares(0.5) == (0.5, 1.0), "groups count once"


def test_cost_goes_on_to_the_layer_inside() -> None:
    slices, plain = slices_of(), Flops(1200, 1200, 1200)
    layer = SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), inp=(IN,), slices=slices, inner=sparse(0.5))
    assert layer.cost(plain, 0.5) == Flops(300, 150, 150)
    assert layer.cost(plain, 0.5, mix={0.0: 0.5, 0.5: 0.5}) == Flops(300, 225, 225)
    assert layer.cost(plain, 0.5, 12) == Flops(300, 150, 150)
    alternating = SlicedLayer(
        "fc", rate=rate_of(slices), out=(OUT,), slices=slices, inner=sparse(0.5, schedule="alternate")
    )
    assert alternating.cost(plain, 0.5) == Flops(600, 450, 450)


def test_over_groups() -> None:
    group = (Segment(4, "g", 1, 4, 1),)
    assert over_groups(None, None, 4, 12) is None
    assert over_groups((OUT,), None, 1, 12) == (OUT,)
    assert over_groups(None, group, 4, 12) == (Segment(12, "g", 1, 4, 3),)
    assert over_groups((OUT,), None, 3, 36) == (Segment(36, "o", 3, 12, 1),)
    assert over_groups((OUT, Segment(2)), None, 2, 28) == (OUT, Segment(2), OUT, Segment(2))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how: str) -> None:
    slices = slices_of()
    layer = SlicedLayer("fc", rate=rate_of(slices), out=(OUT,), slices=slices, inner=sparse())
    twin = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert twin.rate is twin.slices["o"].rate
    assert twin.rate is not layer.rate
    weight, input = torch.randn(12, 3), torch.randn(2, 3)
    assert torch.equal(twin.linear(input, weight, None), layer.linear(input, weight, None))
    assert repr(twin) == "SlicedLayer('fc', rate=0.5)"
    assert Fraction(*map(int, twin.shares(0.0))) == 1
