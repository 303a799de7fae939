from __future__ import annotations

import fractions
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ecograph.cost.flops import Flops
from ecograph.passes.sparse_backward.keep import kept_channels, sparse_cost
from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.schedule import Rate


def test_kept_channels_are_the_whole_part_of_keep_times_channels() -> None:
    """In exact arithmetic, for every two-digit drop: float rounding must not lose a channel, nor add one."""
    for channels in (*range(1, 130), 192, 256, 384, 512, 768, 1000, 1024, 3072, 4096, 50257):
        for hundredths in range(100):
            exact = fractions.Fraction(100 - hundredths, 100) * channels
            assert kept_channels(channels, hundredths / 100) == max(math.floor(exact), 1), (
                channels,
                hundredths,
            )


@pytest.mark.parametrize(
    ("channels", "drop", "align", "expected"),
    [
        (64, 0.8, 1, 12), (64, 0.8, 8, 16), (64, 0.8, 16, 16), (64, 0.8, 64, 64), (64, 0.8, 100, 64),
        (20, 0.8, 8, 8), (20, 0.5, 8, 16), (20, 0.1, 8, 20), (3, 0.99, 1, 1), (3, 0.99, 2, 2),
    ],
)  # fmt: skip
def test_align_rounds_up(channels: int, drop: float, align: int, expected: int) -> None:
    assert kept_channels(channels, drop, align) == expected


def test_cost_shrinks_the_sparse_gradients_alone() -> None:
    plain = Flops(1000, 1000, 1000)
    assert sparse_cost(plain, 10, 0.8, (True, True), 1) == Flops(1000, 200, 200)
    assert sparse_cost(plain, 10, 0.8, (False, True), 1) == Flops(1000, 1000, 200)
    assert sparse_cost(plain, 10, 0.8, (True, False), 4) == Flops(1000, 400, 1000)
    assert sparse_cost(plain, 10, 0.0, (True, True), 1) == plain


def test_cost_keeps_what_checkpointing_computes_again() -> None:
    plain = Flops(1000, 1000, 1000, recomputed=1000)
    assert sparse_cost(plain, 10, 0.8, (True, True), 1) == Flops(1000, 200, 200, recomputed=1000)


def make(drop: float = 0.5, **options: Any) -> SparseLayer:
    settings: dict[str, Any] = {
        "channels": 8, "grads": ("input", "weight"), "random": False, "unbiased": False, "align": 1,
        "dense_because": "",
    }  # fmt: skip
    return SparseLayer("fc", Rate(drop, "constant"), **{**settings, **options})


def is_sparse(output: torch.Tensor) -> bool:
    return "Sparse" in type(output.grad_fn).__name__


LEAF = {"requires_grad": True}


@pytest.mark.parametrize(
    ("why", "layer", "input", "weight", "sparse"),
    [
        ("sparse", make(), torch.randn(3, 4, **LEAF), torch.randn(8, 4, **LEAF), True),
        ("rate is 0", make(0.0), torch.randn(3, 4, **LEAF), torch.randn(8, 4, **LEAF), False),
        ("keeps all by align", make(align=8), torch.randn(3, 4, **LEAF), torch.randn(8, 4, **LEAF), False),
        ("decided", make(dense_because="does not pay"), torch.randn(3, 4), torch.randn(8, 4, **LEAF), False),
        ("empty batch", make(), torch.randn(0, 4, **LEAF), torch.randn(8, 4, **LEAF), False),
        ("frozen weight", make(), torch.randn(3, 4, **LEAF), torch.randn(8, 4), True),
        ("input without gradient", make(), torch.randn(3, 4), torch.randn(8, 4, **LEAF), True),
        (
            "grads=input, and none wanted",
            make(grads=("input",)),
            torch.randn(3, 4),
            torch.randn(8, 4, **LEAF),
            False,
        ),
        (
            "grads=weight, frozen",
            make(grads=("weight",)),
            torch.randn(3, 4, **LEAF),
            torch.randn(8, 4),
            False,
        ),
        (
            "complex",
            make(),
            torch.randn(3, 4, dtype=torch.cfloat, **LEAF),
            torch.randn(8, 4, dtype=torch.cfloat),
            False,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_when_the_plain_function_is_called(
    why: str, layer: SparseLayer, input: torch.Tensor, weight: torch.Tensor, sparse: bool
) -> None:
    output = layer.linear(input, weight, None)
    assert is_sparse(output) is sparse
    assert torch.equal(output, F.linear(input, weight))
    with torch.no_grad():
        assert layer.linear(input, weight, None).grad_fn is None
    kernel = weight[:, :, None].detach().requires_grad_(weight.requires_grad)
    signal = input[:, :, None].detach().requires_grad_(input.requires_grad)
    assert is_sparse(layer.conv(signal, kernel, None)) is sparse


def test_the_first_training_batch_decides() -> None:
    small, large = make(dense_because=None), make(dense_because=None)
    weight = torch.randn(8, 4, requires_grad=True)
    for layer in (small, large):
        with torch.no_grad():
            layer.linear(torch.randn(3, 4), weight, None)
        assert layer.dense_because is None, "no training step yet"
    first = small.linear(torch.randn(3, 4), weight, None)
    assert not is_sparse(first)
    assert small.dense_because is not None and "does not pay" in small.dense_because
    assert small.flops == Flops(2 * 3 * 4 * 8, 0, 2 * 3 * 4 * 8)
    wide = torch.randn(512, 512, requires_grad=True)
    signal = torch.randn(512, 512, requires_grad=True)
    large.linear(signal, wide, None)
    assert large.dense_because == ""
    assert large.flops == Flops(*[2 * 512**3] * 3)
    assert is_sparse(large.linear(signal, wide, None))


def test_repr_names_the_layer_and_its_drop() -> None:
    assert repr(make(0.8)) == "SparseLayer('fc', drop=0.8)"
