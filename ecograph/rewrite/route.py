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
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ecograph.analysis.products import SIGNATURES, Signature
from ecograph.capture.attention import multi_head_attention
from ecograph.rewrite.calls import Calls, Walk, find
from ecograph.rewrite.leaf import leaf_call
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
        calls: other calls that change, for slices of channel groups.
    """

    def __init__(
        self,
        module: nn.Module,
        routes: Sequence[Route],
        before: Callable[..., Any] | None,
        calls: Calls | None = None,
    ) -> None:
        self.module = module
        self.routes = list(routes)
        self.before = before
        self.calls = calls or Calls()

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The forward as it was, for ``inspect.signature`` and the like."""
        return self.before or type(self.module).forward.__get__(self.module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's own forward, with its products rewritten where a rate asks for it."""
        traced = leaf_call(self.module, *args, **kwargs)
        if traced is not None:
            return traced
        forward = self.before if self.before is not None else type(self.module).forward.__get__(self.module)
        training = self.module.training
        if not self.calls.active and not any(route.layer.acts(training) for route in self.routes):
            return forward(*args, **kwargs)
        with _Routing(self.module, self.routes, self.calls):
            return forward(*args, **kwargs)


class _Routing(TorchFunctionMode):
    """Hands products with the routed weights to their layers, and makes the calls that change."""

    def __init__(self, module: nn.Module, routes: Sequence[Route], calls: Calls) -> None:
        super().__init__()
        self.module = module
        self.walk = Walk(calls, module) if calls.active else None
        self.views: list[tuple[Tensor, Layer]] = []
        self.known: list[tuple[Tensor, Layer]] = []
        for route in routes:
            for name in route.parameters:
                parameter = find(module, name)
                if parameter is None:
                    continue
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
            if layer is not None and self._is_site(signature, bound):
                if self.walk is not None:
                    bound[signature.input] = self.walk.cut(bound[signature.input])
                return compute(layer, signature, bound)
        if self.walk is not None:
            return self._walked(name, func, args, kwargs)
        result = func(*args, **kwargs)
        self._remember(result, (*args, *kwargs.values()))
        return result

    def _walked(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self.walk is not None
        func, args, kwargs = self.walk.rewrite(name, func, args, kwargs)
        if torch.compiler.is_compiling():
            result = func(*args, **kwargs)
        else:
            try:
                result = func(*args, **kwargs)
            except RuntimeError as error:
                complaint = self.walk.complaint(name, error)
                if complaint is None:
                    raise
                raise RuntimeError(complaint) from error
        self._remember(result, (*args, *kwargs.values()))
        return result

    def _is_site(self, signature: Signature, bound: dict[str, Any]) -> bool:
        """Whether a product with a known weight is one that could be rewritten; see ``find_sites``."""
        if signature.kind == "conv":
            return True
        if bound[signature.weight].dim() != 2 or bound.get("alpha", 1) != 1 or bound.get("beta", 1) != 1:
            return False
        if not signature.transposed:
            return True
        input = bound[signature.input]  # where it is a weight too, as in ``self.up @ self.down``, they make a weight
        given = (*(known for known, _ in self.known), *self.module.buffers())
        return not any(input is tensor for tensor in given)

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
        """Notes what was derived from a weight, and from nothing but weights and constants."""
        given = [item for arg in args for item in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        layer = None
        for item in given:
            if isinstance(item, Tensor):
                found = next((layer for known, layer in self.known if item is known), None)
                if found is None and not _is_constant(item):
                    return
                layer = layer or found
        if layer is not None:
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, Tensor):
                    self.known.append((tensor, layer))


def _is_constant(tensor: Tensor) -> bool:
    """Whether a tensor is a parameter or a buffer, not an activation, as far as one can see.

    Activations need gradients, or are the model's input; token ids and the like are integers.
    """
    return isinstance(tensor, nn.Parameter) or (tensor.is_floating_point() and not tensor.requires_grad)


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
