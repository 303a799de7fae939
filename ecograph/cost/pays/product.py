"""The product of a layer, as the passes that change it find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecograph.capture.graph import example
from ecograph.cost.pays.call import Spec, record_call
from ecograph.cost.pays.prices import computed_in
from ecograph.cost.steps.op import Op
from ecograph.rewrite.functions import per_dimension, plain_conv

if TYPE_CHECKING:
    from ecograph.analysis.sites import Site


@dataclass(frozen=True)
class PlainProduct:
    """``F.linear``, or ``F.conv*d`` in the geometry of a layer.

    Attributes:
        dims: spatial dimensions of a convolution; 0 for a linear product.
        stride: of a convolution, as everything below: a number for each dimension.
        padding: likewise; ``"same"`` and ``"valid"`` too.
        dilation: likewise.
        groups: how many.
        transposed: whether it is a transposed convolution.
        output_padding: of a transposed one.
    """

    dims: int = 0
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @classmethod
    def conv(
        cls,
        dims: int,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        transposed: bool = False,
        output_padding: Any = 0,
    ) -> PlainProduct:
        """Returns a convolution, from arguments as torch takes them."""
        return cls(
            dims,
            per_dimension(stride, dims),
            padding if isinstance(padding, str) else per_dimension(padding, dims),
            per_dimension(dilation, dims),
            groups,
            transposed,
            per_dimension(output_padding, dims),
        )

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Computes the product."""
        if not self.dims:
            return F.linear(input, weight, bias)
        return plain_conv(
            input, weight, bias, self.stride, self.padding, self.dilation, self.groups,
            transposed=self.transposed, output_padding=self.output_padding,
        )  # fmt: skip


@dataclass(frozen=True)
class ProductCall:
    """A product, and what it is called with.

    Attributes:
        product: the product.
        input: what comes in.
        weight: ``(out, in)``, or as a convolution has it.
        bias: None where there is none.
    """

    product: PlainProduct
    input: Spec
    weight: Spec
    bias: Spec | None

    def record(self, compute: Callable[..., Any] | None = None) -> tuple[Op, ...]:
        """Returns all that it runs, forward and backward.

        Args:
            compute: in the product's place; it is hashable, and equal where it computes the same.
        """
        return _record(compute or self.product, (self.input, self.weight, self.bias))

    def sliced(self, inp: float, out: float) -> ProductCall:
        """Returns the same on shares of its input and output channels."""
        if (inp, out) == (1, 1):
            return self
        convolution, groups = bool(self.product.dims), self.product.groups
        at = -self.product.dims - 1
        shape, weight = list(self.input.shape), list(self.weight.shape)
        outputs, inputs = (1, 0) if self.product.transposed else (0, 1)
        if convolution and groups > 1 and weight[inputs] == 1:  # whole groups go
            groups = max(round(groups * out), 1)
            shape[at] = groups * (weight[0] // self.product.groups if self.product.transposed else weight[1])
            weight[0] = max(weight[0] // self.product.groups, 1) * groups
        else:
            before = shape[at]
            shape[at] = max(round(before * inp / groups), 1) * groups
            weight[inputs] = max(round(weight[inputs] * inp), 1) if inputs == 1 else shape[at]
            weight[outputs] = (
                max(round(weight[outputs] * out), 1)
                if outputs == 1
                else max(round(weight[0] * out / groups), 1) * groups
            )
        bias = weight[1] * groups if self.product.transposed else weight[0]
        return replace(
            self,
            product=replace(self.product, groups=groups),
            input=replace(self.input, shape=tuple(shape)),
            weight=replace(self.weight, shape=tuple(weight)),
            bias=None if self.bias is None else replace(self.bias, shape=(bias,)),
        )


@lru_cache(maxsize=4096)
def _record(compute: Callable[..., Any], specs: tuple[Spec | None, ...]) -> tuple[Op, ...]:
    return record_call(compute, specs)


def product_call(site: Site, model: nn.Module) -> ProductCall | None:
    """Returns the call of a site; None where its shapes are not known before it runs."""
    if site.input_shape is None or site.weight_shape is None or site.product.signature is None:
        return None
    parameters = dict(model.named_parameters(remove_duplicate=False))
    dtype = next((parameters[name].dtype for name in site.parameters if name in parameters), torch.float32)
    dtype = computed_in(dtype)
    given = example(site.product.operands[0])
    dims = site.product.signature.dims
    last = False
    if given is not None and dims in (2, 3) and given.dim() == dims + 2:
        format = torch.channels_last if dims == 2 else torch.channels_last_3d
        last = given.is_contiguous(memory_format=format) and not given.is_contiguous()
    arguments = site.product.arguments
    weight = site.weight_shape
    if site.kind == "conv":
        keys = ("stride", "padding", "dilation", "groups", "output_padding")
        geometry = {key: arguments[key] for key in keys if key in arguments}
        product = PlainProduct.conv(dims, transposed=site.transposed, **geometry)
    else:
        product = PlainProduct()
        weight = weight[::-1] if site.transposed else weight
    out = site.out_channels
    has_bias = site.product.signature.bias and arguments.get(site.product.signature.bias) is not None
    return ProductCall(
        product,
        Spec(site.input_shape, dtype, site.needs_grad[0], channels_last=last),
        Spec(weight, dtype, site.needs_grad[1], weight=True, channels_last=last),
        Spec((out,), dtype, site.needs_grad[1], weight=True) if has_bias and out is not None else None,
    )
