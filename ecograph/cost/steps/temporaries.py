"""Memory that kernels take for themselves while they run, which no result shows: that of oneDNN, on the CPU.

It runs convolutions on copies of the operands in a layout of its own, with channels in blocks, and copies the result
back. What is said here was read off torch's own account of memory, kernel by kernel; a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.steps.op import Grad

#: Channels in a block.
BLOCK = 16
#: The largest image in elements, of a batch of one, that torch's own kernels are taken for.
SMALL = 20480


def conv_temporary(
    grad: Grad, input: Tensor, weight: Tensor, output: Tensor, *, groups: int, strided: bool, channels_last: bool
) -> int:
    """Returns the bytes that a convolution on the CPU holds beside operands and results.

    Args:
        grad: which gradient it computes; "" for the forward.
        input: of the forward.
        weight: of the forward.
        output: of the forward, or its gradient.
        groups: of channels.
        strided: whether stride or dilation are other than 1.
        channels_last: whether the images are; then only the weight is copied.
    """
    if not _by_onednn(input, weight, groups, strided):
        return 0
    x, w, y = (tensor.numel() * tensor.element_size() for tensor in (input, weight, output))
    if not channels_last:
        return max({"": (x + w, y), "grad_input": (y + w, x), "grad_weight": (x + y, w)}[grad])
    if grad != "grad_weight":
        return w
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    depthwise = outputs == inputs == 1
    if depthwise and max(weight.shape[2:]) <= 3:
        return 2 * w
    padded = w * _in_blocks(inputs) * _in_blocks(outputs) // (inputs * outputs)
    wide = 1 if weight.dtype == torch.float32 else 3  # it adds up in float32
    return w + wide * padded


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


def is_strided(stride: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether one of them is other than 1."""
    return any(each != 1 for each in (*stride, *dilation))


def kept_beside(name: str, args: tuple[Any, ...], results: Sequence[Tensor]) -> int:
    """Returns the bytes of the last result that a run without data does not know of."""
    if name == "aten.mkldnn_rnn_layer" and results and results[-1].numel() == 0:
        return lstm_workspace(args[0], args[2])
    return 0


def _by_onednn(input: Tensor, weight: Tensor, groups: int, strided: bool) -> bool:
    """Whether torch hands a convolution to oneDNN (``ConvParams::use_mkldnn`` in its ``Convolution.cpp``)."""
    if not torch.backends.mkldnn.enabled or input.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if input.dtype != torch.float32:
        return True
    pointwise = all(size == 1 for size in weight.shape[2:])
    many = strided or input.shape[0] >= 16 or not pointwise or torch.get_num_threads() > 1
    large = groups > 1 or min(weight.shape[-2:]) > 3 or input.shape[0] > 1 or input.numel() > SMALL
    return many and large


def _in_blocks(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK
