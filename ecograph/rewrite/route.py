"""Rewritten products in custom modules, without touching their code.

A module with a forward of its own may call a product any way it likes: ``torch.addmm`` with its weight,
``x @ self.weight.T``, ``F.conv2d`` with a standardized weight, ``F.multi_head_attention_forward``. Its forward is run
as it is, and the calls of torch functions it makes are watched: where one multiplies by a weight that was rewritten,
the rewritten product is computed instead. All Python around it, whatever it depends on, stays live.

Weights are recognised by identity, and so is what the forward derives from them (a view, a standardized copy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecograph.analysis.products import SIGNATURES, Signature
from ecograph.capture.attention import multi_head_attention
from ecograph.rewrite.passes import Layer


@dataclass
class Route:
    """One weight of a module, and what computes products with it.

    Attributes:
        parameters: names, relative to the module, of the parameters that the weight derives from.
        layer: computes the product.
        transposed_attribute: the forward multiplies by ``weight.T``. Dynamo does not show attributes to a mode, so
            while it traces, such a view is recognised by its shape.
    """

    parameters: tuple[str, ...]
    layer: Layer
    transposed_attribute: bool = False


class RoutedForward:
    """A module's forward with some of its products rewritten; takes the forward's place on the instance.

    Args:
        module: the module.
        routes: its rewritten products.
        before: the forward that the instance had as an attribute of its own, or None where its class's is meant.
    """

    def __init__(self, module: nn.Module, routes: Sequence[Route], before: Callable[..., Any] | None) -> None:
        self.module = module
        self.routes = list(routes)
        self.before = before

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The forward as it was, for ``inspect.signature`` and the like."""
        return self.before or type(self.module).forward.__get__(self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own forward, with its products rewritten where a rate asks for it."""
        forward = self.before if self.before is not None else type(self.module).forward.__get__(self.module)
        if not self.module.training or not any(_acts(route.layer) for route in self.routes):
            return forward(*args, **kwargs)
        with _Routing(self.module, self.routes):
            return forward(*args, **kwargs)


def _acts(layer: Layer) -> bool:
    """Whether the layer computes anything but the plain product now, or has yet to see the batch that decides it."""
    return layer.dense_because is None or (layer.dense_because == "" and layer.rate.now != 0)


class _Routing(TorchFunctionMode):
    """Hands products with the routed weights to their layers."""

    def __init__(self, module: nn.Module, routes: Sequence[Route]) -> None:
        super().__init__()
        self.views: list[tuple[Tensor, Layer]] = []
        self.known: list[tuple[Tensor, Layer]] = []
        for route in routes:
            for name in route.parameters:
                parameter = reduce(getattr, name.split("."), module)
                assert isinstance(parameter, Tensor)
                self.known.append((parameter, route.layer))
                if route.transposed_attribute:
                    self.views.append((parameter, route.layer))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Functions written in Python are known by name: while Dynamo traces, they are not the same objects.
        name = getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            with self:
                return multi_head_attention(*args, **kwargs)
        if name == "unflatten":
            func = torch.unflatten  # Tensor.unflatten is written with super(), which Dynamo cannot trace from a mode
        signature = SIGNATURES.get(func)
        if signature is not None:
            bound = signature.bind(args, kwargs)
            layer = self._layer_of(bound[signature.weight])
            if layer is not None and bound.get("alpha", 1) == 1 and bound.get("beta", 1) == 1:
                return compute(layer, signature, bound)
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        self._remember(result, args)
        return result

    def _layer_of(self, weight: Any) -> Layer | None:
        for known, layer in self.known:
            if weight is known:
                return layer
        if self.views and torch.compiler.is_compiling() and weight.dim() == 2:
            for known, layer in self.views:
                if weight.shape[0] == known.shape[1] and weight.shape[1] == known.shape[0]:
                    return layer
        return None

    def _remember(self, result: Any, args: tuple[Any, ...]) -> None:
        """Notes what was derived from a weight."""
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        for source, layer in self.known:
            for arg in args:
                if arg is source:
                    for tensor in tensors:
                        if isinstance(tensor, Tensor) and tensor is not source:
                            self.known.append((tensor, layer))
                    return


def compute(layer: Layer, signature: Signature, bound: dict[str, Any]) -> Tensor:
    """Computes the product of a call through its layer."""
    input, weight = bound[signature.input], bound[signature.weight]
    bias = bound.get(signature.bias) if signature.bias else None
    if signature.kind == "conv":
        return layer.conv(
            input, weight, bias,
            bound.get("stride", 1), bound.get("padding", 0), bound.get("dilation", 1), bound.get("groups", 1),
            transposed=signature.transposed, output_padding=bound.get("output_padding", 0),
        )  # fmt: skip
    if signature.transposed:
        weight = weight.t()
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]):  # addmm broadcasts
        product: Tensor = layer.linear(input, weight, None) + bias
        return product
    return layer.linear(input, weight, bias)
