"""FLOPs of scaled dot-product attention, which depend on the kernel that torch will choose."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from ecograph.capture.graph import example, shape
from ecograph.cost.types import Flops, needs_grad

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def attention_flops(node: fx.Node) -> Flops | None:
    """Returns the FLOPs of ``F.scaled_dot_product_attention``, or None where its shapes are unknown.

    A causal mask is not counted as a saving, as in ``FlopCounterMode``.
    """
    arguments = dict(zip(_NAMES, node.args, strict=False)) | dict(node.kwargs)
    operands = [arguments[name] for name in _NAMES[:3]]
    query, key, value = (shape(operand) for operand in operands)
    if query is None or key is None or value is None:
        return None
    rows = math.prod(query[:-1])
    if key[:-2] != query[:-2] and not arguments.get("enable_gqa"):  # broadcast
        rows = math.prod(map(max, query[:-2], key[:-2])) * query[-2]
    scores = 2 * rows * key[-2] * query[-1]
    mix = 2 * rows * key[-2] * value[-1]
    grads = needs_grad(*operands)
    if not any(grads):
        return Flops(scores + mix)
    if _fused(arguments, query, key, value):
        # Scores are formed a second time, because they were not kept; then all gradients come out of one
        # kernel.
        return Flops(scores + mix, 3 * scores + 2 * mix)
    products = scores * (grads[0] + grads[1]) + mix * grads[2]
    if grads[0] or grads[1]:
        products += mix  # the gradient of the scores
    return Flops(scores + mix, products)


def _fused(
    arguments: dict[str, Any], query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]
) -> bool:
    """Whether torch runs one kernel, rather than two products with a softmax between them."""
    given, mask = example(arguments["query"]), arguments.get("attn_mask")
    on_cpu = given is not None and given.device.type == "cpu"
    if len(query) != 4 or key[:-2] != value[:-2] or 0 in (query[-2], key[-2]):
        return False
    if query[0] != key[0] or (query[1] != key[1] and not arguments.get("enable_gqa")):
        return False
    if on_cpu and (arguments.get("dropout_p", 0.0) > 0.0 or query[-1] != value[-1]):
        return False
    return not (isinstance(mask, fx.Node) and needs_grad(mask)[0])
