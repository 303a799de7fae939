"""FLOPs of recurrent layers: every weight matrix meets every row of the batch at every time step."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from ecograph.capture.graph import shape
from ecograph.cost.types import Flops, needs_grad


def recurrent_flops(node: fx.Node, *, cell: bool) -> Flops | None:
    """Returns the FLOPs of a recurrent layer or cell; None for packed sequences.

    Args:
        node: the call: ``(input, state, weights, has_biases, num_layers, dropout, train, bidirectional,
            batch_first)``, or, for a cell, ``(input, state, w_ih, w_hh, biases...)``.
        cell: whether it is a cell, which is one time step.
    """
    given, state = node.args[0], node.args[1]
    weights: Any = node.args[2:] if cell else node.args[2]
    rows = shape(given)
    if rows is None or not isinstance(weights, (tuple, list)):
        return None
    steps = 1 if cell or len(rows) < 2 else rows[1 if len(rows) == 3 and node.args[-1] is True else 0]
    calls = math.prod(rows[:-1])
    first_state = state[0] if isinstance(state, (tuple, list)) else state
    with_state = needs_grad(first_state)[0]
    forward = grad_input = grad_weight = 0
    matrices = [w for w in weights if len(shape(w) or ()) == 2]
    directions = 1 if cell else 1 + bool(node.args[7])
    layers: Any = 1 if cell else node.args[4]
    per_layer = len(matrices) // (layers * directions)
    for index, weight in enumerate(matrices):
        flops = 2 * calls * math.prod(shape(weight) or ())
        forward += flops
        grad_weight += flops * needs_grad(weight)[0]
        if index % per_layer == 0:  # times the layer's input
            grad_input += flops * (needs_grad(given)[0] or index >= per_layer * directions)
        else:  # times the state of the step before; the first one is given from outside
            grad_input += flops * (steps - 1 + with_state) // steps
    return Flops(forward, grad_input, grad_weight)
