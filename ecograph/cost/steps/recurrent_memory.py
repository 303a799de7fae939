"""Memory that recurrent layers keep and take for themselves on the CPU, where oneDNN runs them.

Read off torch's own account of memory; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor


def lstm_workspace(input: Tensor, recurrent: Tensor) -> int:
    """Returns about how many bytes a layer of an LSTM keeps for its backward, beside its results.

    Args:
        input: ``(steps, batch, features)``.
        recurrent: the weight of the state, ``(4 * hidden, hidden)``.
    """
    hidden, features = recurrent.shape[-1], input.shape[-1]
    return math.prod(input.shape[:-1]) * 8 * (hidden + max(hidden, features)) * input.element_size()


def recurrent_temporary(name: str, args: tuple[Any, ...]) -> int:
    """Returns about how many bytes a layer of an LSTM holds while it runs: its weights copied, and its gates."""
    if not name.startswith("aten.mkldnn_rnn_layer"):
        return 0
    input, weight, recurrent = args[:3]
    gates = math.prod(input.shape[:-1]) * recurrent.shape[0]
    return int((gates + weight.numel() + recurrent.numel()) * input.element_size())


def kept_beside(name: str, args: tuple[Any, ...], results: Sequence[Tensor]) -> int:
    """Returns the bytes of the last result that a run without data does not know of."""
    if name == "aten.mkldnn_rnn_layer" and results and results[-1].numel() == 0:
        return lstm_workspace(args[0], args[2])
    return 0
