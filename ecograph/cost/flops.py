"""Floating-point operations of products, from shapes: forward, grad_input and grad_weight.

A multiply and an add count as two operations, as in ``torch.utils.flop_counter.FlopCounterMode``, with which these
figures agree exactly except in two places where the counter is wrong: it overcounts the backward of grouped
convolutions (by the number of groups), and it does not see attention on the CPU at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from ecograph.analysis.products import OTHER_PRODUCTS, Product, find_product, function_of
from ecograph.capture.graph import Graph, example, shape


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one product, or of many added up.

    Attributes:
        forward: of the forward.
        grad_input: of the gradient with respect to the activation (for attention: to all operands).
        grad_weight: of the gradient with respect to the weight.
    """

    forward: int = 0
    grad_input: int = 0
    grad_weight: int = 0

    @property
    def backward(self) -> int:
        """grad_input and grad_weight together."""
        return self.grad_input + self.grad_weight

    @property
    def total(self) -> int:
        """Of the whole step."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.forward + other.forward,
            self.grad_input + other.grad_input,
            self.grad_weight + other.grad_weight,
        )


def linear_flops(output: tuple[int, ...], in_features: int) -> int:
    """FLOPs of a linear product with this output shape."""
    return 2 * math.prod(output) * in_features


def conv_flops(
    input: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], *, transposed: bool
) -> int:
    """FLOPs of a convolution; grouped ones are right because the weight holds only its group's channels.

    Args:
        input: ``(N, C_in, *spatial)``, or without N.
        weight: ``(C_out, C_in / groups, *kernel)``; ``(C_in, C_out / groups, *kernel)`` where transposed.
        output: ``(N, C_out, *spatial)``, or without N.
        transposed: every *input* position meets the whole kernel, in place of every output position.
    """
    positions = math.prod(input if transposed else output) // (weight[0] or 1)
    return 2 * positions * math.prod(weight)


def product_flops(product: Product, needs_grad: tuple[bool, bool]) -> Flops | None:
    """Returns the FLOPs of a product in a captured graph, or None where its shapes are unknown.

    Args:
        product: what is multiplied.
        needs_grad: whether the input and the weight need a gradient.
    """
    output = shape(product.node)
    if output is None or product.signature is None:
        return None
    first, weight = shape(product.input), shape(product.weight)
    if first is None or weight is None:
        return None
    if product.signature.kind == "conv":
        forward = conv_flops(first, weight, output, transposed=product.signature.transposed)
    elif len(weight) == 1 or len(first) == 1:
        forward = 0  # matrix times vector: FlopCounterMode does not count it, nor does it matter
    else:
        forward = linear_flops(output, first[-1])
    return Flops(forward, forward * needs_grad[0], forward * needs_grad[1])


def needs_grad(*nodes: Any) -> tuple[bool, ...]:
    """Returns for each node whether its gradient is computed; yes where the graph does not know."""
    return tuple(True if (value := example(node)) is None else value.requires_grad for node in nodes)


def graph_flops(graph: Graph) -> dict[fx.Node, Flops]:
    """Returns the FLOPs of every product and attention in a graph that knows its shapes."""
    counted: dict[fx.Node, Flops] = {}
    for node in graph.nodes:
        flops = _node_flops(node)
        if flops is not None:
            counted[node] = flops
    return counted


def _node_flops(node: fx.Node) -> Flops | None:
    product = find_product(node)
    if product is not None and product.signature is not None:
        grads = needs_grad(product.input, product.weight)
        return product_flops(product, (grads[0], grads[1]))
    function = function_of(node)
    if function is F.scaled_dot_product_attention:
        return _attention_flops(node)
    try:
        if function not in OTHER_PRODUCTS:
            return None
    except TypeError:
        return None
    return _other_flops(node, function)


def _other_flops(node: fx.Node, function: Any) -> Flops | None:
    """Batched products and einsum: each operand's gradient costs as much as the forward."""
    output = shape(node)
    operands = [n for n in node.all_input_nodes if shape(n) is not None]
    if output is None or len(operands) < 2:
        return None
    if function is torch.einsum:
        forward = _einsum_flops(node)
    elif function in (torch.baddbmm, torch.Tensor.baddbmm):
        operands = operands[-2:]
        forward = linear_flops(output, (shape(operands[0]) or (0,))[-1])
    elif function in (torch.bmm, torch.Tensor.bmm):
        forward = linear_flops(output, (shape(operands[0]) or (0,))[-1])
    else:
        return None
    return Flops(forward, forward * sum(needs_grad(*operands)))


def _einsum_flops(node: fx.Node) -> int:
    """Two operands contract in one batched product over all their indices together."""
    equation, *operands = node.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "." in equation:
        return 0
    sizes: dict[str, int] = {}
    terms, _, result = equation.replace(" ", "").partition("->")
    for term, operand in zip(terms.split(","), operands, strict=True):
        sizes.update(zip(term, shape(operand) or (), strict=False))
    if not set(sizes) - set(result):
        return 0  # nothing is summed: an elementwise product
    return 2 * math.prod(sizes.values())


def _attention_flops(node: fx.Node) -> Flops | None:
    names = ("query", "key", "value", "attn_mask", "dropout_p")
    arguments = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    operands = [arguments[name] for name in names[:3]]
    query, key, value = (shape(operand) for operand in operands)
    if query is None or key is None or value is None:
        return None
    scores = 2 * math.prod(query[:-1]) * key[-2] * query[-1]
    mix = 2 * math.prod(query[:-1]) * key[-2] * value[-1]
    if not any(needs_grad(*operands)):
        return Flops(scores + mix)
    # Gradients of query and key cost one product each, so do those of value and scores; fused kernels form the scores
    # a second time because they did not keep them.
    mask = arguments.get("attn_mask")
    fused = arguments.get("dropout_p", 0.0) == 0.0 and len(query) == 4
    if isinstance(mask, fx.Node) and needs_grad(mask)[0]:
        fused = False
    again = scores if fused else 0
    return Flops(scores + mix, 2 * scores + 2 * mix + again)
