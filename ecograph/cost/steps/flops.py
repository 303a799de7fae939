"""FLOPs of an operation as torch carries it out, from the shapes of its operands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from ecograph.cost.flops import conv_flops

aten = torch.ops.aten


def op_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Returns the floating-point operations of a call, a multiply-add being two.

    Only products count, as in ``FlopCounterMode``, whose formulas are used where they are right.

    Args:
        func: the operation.
        args: its operands.
        kwargs: the rest of them.
        out: what it returned.
    """
    packet = getattr(func, "overloadpacket", None)  # an operation of higher order has none
    if packet in OURS:
        return OURS[packet](*args, **kwargs)
    formula = flop_registry.get(packet)
    if formula is None:
        return 0
    return int(formula(*args, **kwargs, out_val=out))


def conv_backward_flops(grad: Tensor, input: Tensor, weight: Tensor, *rest: Any) -> tuple[int, int]:
    """Returns the FLOPs of grad_input and of grad_weight of ``aten.convolution_backward``; 0 for what is not asked for.

    ``FlopCounterMode`` counts grad_weight of a grouped convolution as many times as there are groups.
    """
    transposed, mask = rest[4], rest[7]
    each = conv_flops(tuple(input.shape), tuple(weight.shape), tuple(grad.shape), transposed=transposed)
    return each * mask[0], each * mask[1]


def _conv_backward(*args: Any, **kwargs: Any) -> int:
    return sum(conv_backward_flops(*args, **kwargs))


def _scores_and_mix(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, int]:
    """Returns the FLOPs of the two products of attention: of the scores, and of the values mixed by them."""
    rows = math.prod(query.shape[:-1])
    return 2 * rows * key.shape[-2] * query.shape[-1], 2 * rows * key.shape[-2] * value.shape[-1]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sum(_scores_and_mix(query, key, value))


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    scores, mix = _scores_and_mix(query, key, value)
    return 3 * scores + 2 * mix  # the scores are formed a second time, because they were not kept


def _lstm_cell_products(input: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    """One layer in one direction, as oneDNN runs it: input is ``(steps, batch, features)``."""
    rows = math.prod(input.shape[:-1])
    return 2 * rows * (weight.numel() + recurrent.numel())


def _lstm_cell_backward(input: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    """The first step has no state before it to send a gradient to."""
    first = 2 * math.prod(input.shape[1:-1]) * recurrent.numel()
    return 2 * _lstm_cell_products(input, weight, recurrent) - first


#: Where torch's counter has no formula, or a wrong one.
OURS: dict[Any, Callable[..., int]] = {
    aten.convolution_backward: _conv_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.mkldnn_rnn_layer: _lstm_cell_products,
    aten.mkldnn_rnn_layer_backward: _lstm_cell_backward,
}
