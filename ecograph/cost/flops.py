"""Floating-point operations of products, from shapes: forward, grad_input and grad_weight.

A multiply and an add count as two operations, as in ``torch.utils.flop_counter.FlopCounterMode``, with which these
figures agree exactly except in three places where the counter is wrong: it overcounts the gradient of a grouped
convolution's weight (by the number of groups), and it does not see fused attention or LSTM layers on the CPU at all.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.utils import _pytree as pytree

from ecograph.analysis.products import OTHER_PRODUCTS, RECURRENT, Product, find_product, function_of
from ecograph.capture.graph import OWN_BACKWARD, RECOMPUTED, Graph, Nested, shape
from ecograph.cost.attention import attention_flops
from ecograph.cost.recurrent import recurrent_flops
from ecograph.cost.types import Flops, needs_grad

__all__ = ["Flops", "conv_flops", "graph_flops", "linear_flops", "needs_grad", "product_flops"]


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
    elif len(weight) == 1 or (len(first) == 1 and product.signature.transposed):
        forward = 0  # matrix times vector: FlopCounterMode does not count it, nor does it matter
    else:
        forward = linear_flops(output, first[-1])
    return _in_context(product.node, Flops(forward, forward * needs_grad[0], forward * needs_grad[1]))


def _in_context(node: fx.Node, flops: Flops) -> Flops:
    """Checkpointed forwards run twice; from one in an autograd.Function no backward is derived."""
    if OWN_BACKWARD in node.meta:
        flops = Flops(flops.forward)
    return replace(flops, recomputed=flops.forward) if RECOMPUTED in node.meta else flops


def graph_flops(graph: Graph) -> dict[fx.Node, Flops]:
    """Returns the FLOPs of every product and attention in a graph that knows its shapes.

    Nested graphs are included. The backward of an ``autograd.Function`` is counted for the node that calls
    it.
    """
    counted: dict[fx.Node, Flops] = {}
    for node in graph.nodes:
        flops = _node_flops(node)
        if flops is not None:
            counted[node] = flops
        for nested in graph.nested.get(node, []):
            counted |= graph_flops(nested.graph)
            if (backward := _own_backward(nested)) is not None:
                counted[node] = backward
    return counted


def _own_backward(nested: Nested) -> Flops | None:
    """Returns what the backward of an autograd.Function computes, all of it as grad_input."""
    if nested.backward is None:
        return None
    inside = graph_flops(Graph(nested.backward, nested.graph.method))
    return Flops(grad_input=sum(flops.forward for flops in inside.values()))


def _node_flops(node: fx.Node) -> Flops | None:
    product = find_product(node)
    if product is not None and product.signature is not None:
        grads = needs_grad(product.input, product.weight)
        return product_flops(product, (grads[0], grads[1]))
    function = function_of(node)
    flops = None
    if function is F.scaled_dot_product_attention:
        flops = attention_flops(node)
    elif product is not None and function in RECURRENT:
        flops = recurrent_flops(node, cell=str(getattr(function, "__name__", "")).endswith("_cell"))
    elif product is not None and function in OTHER_PRODUCTS:
        flops = _other_flops(node, function)
    return None if flops is None else _in_context(node, flops)


def _other_flops(node: fx.Node, function: Any) -> Flops | None:
    """Batched products and einsum: each operand's gradient costs as much as the forward."""
    output = shape(node)
    # Not all_input_nodes, which names an operand once that is multiplied by itself.
    leaves = pytree.tree_leaves((node.args, dict(node.kwargs)))
    operands = [leaf for leaf in leaves if isinstance(leaf, fx.Node) and shape(leaf) is not None]
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
