"""On a CPU that nobody has measured, whose figures are in the repository: what pays there is the same everywhere."""

from __future__ import annotations

import pytest
import torch

from ecograph.cost.devices import Roofline, find_device
from ecograph.cost.pays import PlainProduct, ProductCall, Spec
from ecograph.passes.sparse_backward.pays import SparseProduct, sparse_verdict, why_dense_here


def conv(images: int, inputs: int, outputs: int, size: int, *, grads: tuple[bool, bool] = (True, True)) -> ProductCall:
    return ProductCall(
        PlainProduct.conv(2, padding=1),
        Spec((images, inputs, size, size), requires_grad=grads[0]),
        Spec((outputs, inputs, 3, 3), requires_grad=grads[1], weight=True),
        None,
    )


def linear(rows: int, width: int) -> ProductCall:
    return ProductCall(PlainProduct(), Spec((rows, width)), Spec((width, width), weight=True), None)


LARGE, TINY = conv(32, 128, 128, 16), linear(4, 16)
BOTH = (True, True)


@pytest.fixture
def prices() -> Roofline:
    return Roofline(find_device("generic-cpu"))


@pytest.mark.parametrize(
    ("call", "keep", "grads", "pays"),
    [
        (LARGE, 26, BOTH, True),
        (LARGE, 64, BOTH, True),
        (LARGE, 26, (True, False), True),
        (LARGE, 127, BOTH, False),
        (LARGE, 26, (False, False), False),
        (conv(32, 128, 128, 16, grads=(False, False)), 26, BOTH, False),
        (TINY, 3, BOTH, False),
        (TINY, 1, BOTH, False),
    ],
)
def test_large_layers_pay_and_tiny_ones_do_not(
    call: ProductCall, keep: int, grads: tuple[bool, bool], pays: bool, prices: Roofline
) -> None:
    verdict = sparse_verdict(call, keep, prices, grads=grads)
    assert verdict.pays is pays
    assert pays or verdict.why_not.startswith("does not pay: saves ")


def test_paying_is_monotonic_in_drop_and_size(prices: Roofline) -> None:
    verdicts = [sparse_verdict(LARGE, keep, prices).pays for keep in range(127, 0, -6)]
    assert verdicts == sorted(verdicts)
    verdicts = [sparse_verdict(linear(rows, 256), 51, prices).pays for rows in (1, 10, 100, 1000, 10000, 100000)]
    assert verdicts == sorted(verdicts)
    assert verdicts[0] is False and verdicts[-1] is True


@pytest.mark.parametrize(
    "product",
    [
        PlainProduct(),
        PlainProduct.conv(1, padding="same", dilation=2),
        PlainProduct.conv(2, stride=2, padding=1, groups=2),
        PlainProduct.conv(2, stride=2, output_padding=1, transposed=True),
    ],
    ids=["linear", "same", "groups", "transposed"],
)
def test_what_is_priced_computes_what_the_layer_computes(product: PlainProduct) -> None:
    shapes = {0: ((5, 6), (8, 6)), 1: ((2, 6, 9), (8, 6, 3)), 2: ((2, 6, 9, 9), (8, 6 // product.groups, 3, 3))}
    shape, weight_shape = shapes[product.dims]
    if product.transposed:
        weight_shape = (6, 8, 3, 3)
    x, weight, bias = torch.randn(shape), torch.randn(weight_shape), torch.randn(8)
    sparse = SparseProduct(product, keep=2)
    torch.testing.assert_close(sparse(x, weight, bias), product(x, weight, bias))


def test_a_layer_that_runs_is_judged_as_one_that_is_planned(prices: Roofline) -> None:
    for call, keep in ((LARGE, 25), (TINY, 3)):
        geometry = (2, 1, 1) if call.product.dims else ()
        found = why_dense_here(
            geometry, call.input.shape, call.weight.shape, False, "float32", "cpu", BOTH, 0.8, 1, BOTH, False, False
        )
        assert found == sparse_verdict(call, keep, prices).why_not
