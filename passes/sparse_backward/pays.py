"""Whether a sparse backward pays for a layer: the cost model is asked what the layer runs with it and without.

Both are recorded as they really run, forward and backward, on tensors without data, and priced on a device.
What is saved is products on fewer channels; what it costs is scoring and choosing channels, taking and putting back,
and a dozen more calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.devices import Roofline
from ecograph.cost.pays import PlainProduct, ProductCall, Spec, Verdict, compare, prices
from ecograph.passes.sparse_backward.conv import padded_sparse_conv
from ecograph.passes.sparse_backward.keep import kept_channels
from ecograph.passes.sparse_backward.linear import sparse_linear


@dataclass(frozen=True)
class SparseProduct:
    """A product with the sparse backward.

    Attributes:
        product: the plain one.
        keep: channels kept, of each group.
        grads: whether grad_input, and grad_weight, are sparse.
        random: as in :func:`~.sparse_conv`.
        unbiased: likewise.
    """

    product: PlainProduct
    keep: int
    grads: tuple[bool, bool] = (True, True)
    random: bool = False
    unbiased: bool = False

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Computes the product."""
        plain = self.product
        options: dict[str, Any] = {
            "keep": self.keep, "grads": self.grads, "random": self.random, "unbiased": self.unbiased
        }  # fmt: skip
        if not plain.dims:
            return sparse_linear(input, weight, bias, **options)
        return padded_sparse_conv(
            input, weight, bias, stride=plain.stride, padding=plain.padding, dilation=plain.dilation,
            groups=plain.groups, transposed=plain.transposed, output_padding=plain.output_padding, **options,
        )  # fmt: skip


def sparse_verdict(
    call: ProductCall,
    keep: int,
    on: Roofline,
    *,
    grads: tuple[bool, bool] = (True, True),
    random: bool = False,
    unbiased: bool = False,
) -> Verdict:
    """Returns what a sparse backward saves and costs in a layer.

    Args:
        call: the layer's product.
        keep: channels kept, of each group.
        on: the device it runs on.
        grads: whether grad_input, and grad_weight, are sparse.
        random: as in the pass.
        unbiased: likewise.
    """
    if not (grads[0] and call.input.requires_grad or grads[1] and call.weight.requires_grad):
        return Verdict(0.0, 0.0)
    sparse = SparseProduct(call.product, keep, grads, random, unbiased)
    return compare(call.record(), call.record(sparse), on)


def why_dense_here(
    geometry: tuple[Any, ...],
    input: tuple[int, ...],
    weight: tuple[int, ...],
    has_bias: bool,
    dtype: str,
    device: str,
    wants: tuple[bool, bool],
    drop: float,
    align: int,
    grads: tuple[bool, bool],
    random: bool,
    unbiased: bool,
) -> str:
    """Returns why the layer that is running now should stay dense, or ``""``.

    All arguments are constants, so that a compiler may call it while it traces.

    Args:
        geometry: arguments of :meth:`PlainProduct.conv`; none for a linear product.
        input: shape.
        weight: shape.
        has_bias: whether there is one.
        dtype: name of the type that it computes with.
        device: torch's type of the device.
        wants: whether grad_input and grad_weight are needed.
        drop: the rate.
        align: as in the pass, as all that follows.
        grads: likewise.
        random: likewise.
        unbiased: likewise.
    """
    product = PlainProduct.conv(*geometry) if geometry else PlainProduct()
    outputs = weight[1] * product.groups if product.transposed else weight[0]
    type_ = getattr(torch, dtype)
    call = ProductCall(
        product,
        Spec(input, type_, wants[0]),
        Spec(weight, type_, wants[1], weight=True),
        Spec((outputs,), type_, wants[1], weight=True) if has_bias else None,
    )
    keep = kept_channels(outputs // product.groups, drop, align)
    return sparse_verdict(call, keep, prices(device), grads=grads, random=random, unbiased=unbiased).why_not


# What torch.compiler.assume_constant_result does; to call that would import the whole compiler here.
why_dense_here._dynamo_marked_constant = True  # type: ignore[attr-defined]
