"""Memory that convolutions on the CPU take for themselves while they run, which no result shows.

oneDNN runs them on copies of the operands in a layout of its own, with channels in blocks, and copies the result back.
What it does not take, torch runs itself, as products of columns. What is said here was read off torch's own account of
memory, kernel by kernel, on processors with AVX-512 and with AVX2, whose kernels differ; a test compares the two on the
machine at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ecograph.cost.steps.op import Grad

AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
#: Channels in a block: oneDNN fills registers of 512 bits, or of 256, with them.
BLOCK = 16 if AVX512 else 8
#: Channels of an image, which AVX2's kernels read as they are.
IMAGE = 3
#: The widest kernel, along one dimension, of which oneDNN has a kernel of AVX2 for grad_weight.
WIDEST = 13
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
        return _columns(grad, input, weight, output, groups, strided)
    if channels_last:
        others = {"": (input,), "grad_input": (output,), "grad_weight": (input, output)}[grad]
        return _in_channels_last(grad, input, weight, output, groups) + sum(map(_put_in_order, others))
    if not AVX512 and grad == "grad_weight" and _by_products(input, weight, groups):
        return _products(input, weight, output, groups)
    x, w, y = map(_nbytes, (input, weight, output))
    if AVX512:
        return max({"": (x + w, y), "grad_input": (y + w, x), "grad_weight": (x + y, w)}[grad])
    if grad == "grad_input" and strided and weight.shape[1] > 1:
        return max(2 * x, y + w)
    inputs, outputs = (channels if groups > 1 else _in_blocks(channels) for channels in _channels(input, output))
    # Copies, in whole blocks; none of what is an image.
    image = groups == 1 and input.shape[1] == IMAGE
    blocked_x = 0 if image else x * inputs // input.shape[1]
    blocked_y = y * outputs // output.shape[1]
    blocked_w = w if image else w * inputs * outputs // (input.shape[1] * output.shape[1])
    copied = {
        "": (blocked_x + blocked_w + blocked_y - y, blocked_y),
        "grad_input": (blocked_y + blocked_w + blocked_x - x, blocked_x),
        "grad_weight": (blocked_x + blocked_y + blocked_w - w, blocked_w),
    }
    return max(copied[grad])


def is_strided(stride: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether one of them is other than 1."""
    return any(each != 1 for each in (*stride, *dilation))


def _by_onednn(input: Tensor, weight: Tensor, groups: int, strided: bool) -> bool:
    """Whether torch hands a convolution to oneDNN (``ConvParams::use_mkldnn`` in its ``Convolution.cpp``)."""
    if not torch.backends.mkldnn.enabled:
        return False
    if input.dtype in (torch.bfloat16, torch.float16):
        return _has_instructions_for(input.dtype)
    if input.dtype != torch.float32:
        return False
    pointwise = all(size == 1 for size in weight.shape[2:])
    many = strided or input.shape[0] >= 16 or not pointwise or torch.get_num_threads() > 1
    large = groups > 1 or min(weight.shape[-2:]) > 3 or input.shape[0] > 1 or input.numel() > SMALL
    return many and large


def _has_instructions_for(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in a type of low precision on this processor."""
    asked = "_is_mkldnn_bf16_supported" if dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    return bool(getattr(torch.ops.mkldnn, asked)())


def _columns(grad: Grad, input: Tensor, weight: Tensor, output: Tensor, groups: int, strided: bool) -> int:
    """Returns what torch's own kernels hold: for every position the patch of the image that it is computed of.

    Groups are taken one after the other, each cut out of the operands.
    """
    x, y = _nbytes(input) // groups, _nbytes(output) // groups
    positions = input.shape[0] * math.prod(output.shape[2:])
    pointwise = not strided and all(size == 1 for size in weight.shape[2:])
    patches = 0 if pointwise else positions * math.prod(weight.shape[1:]) * input.element_size()
    if groups == 1:
        return 0 if grad == "grad_input" else patches
    if grad == "grad_weight":
        return patches + x + y
    return max(patches + x, groups * y) if grad == "" else groups * x


def _by_products(input: Tensor, weight: Tensor, groups: int) -> bool:
    """Whether oneDNN has no kernel of AVX2 for grad_weight, and computes it as products of columns."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    if _larger_than_image(weight, input) or _too_wide(weight):
        return True
    if outputs == inputs == 1:
        return max(weight.shape[2:]) > 3
    return groups > 1 and inputs < BLOCK


def _products(input: Tensor, weight: Tensor, output: Tensor, groups: int) -> int:
    """Returns what grad_weight holds where it is computed as products: of each thread, columns and four weights."""
    columns = math.prod(weight.shape[1:]) * math.prod(output.shape[2:]) * input.element_size()
    return min(torch.get_num_threads(), input.shape[0] * groups) * (4 * _nbytes(weight) + columns)


def _too_wide(weight: Tensor) -> bool:
    return max(weight.shape[2:]) > WIDEST


def _larger_than_image(weight: Tensor, input: Tensor) -> bool:
    return min(input.shape[2:]) < max(weight.shape[2:])


def _in_channels_last(grad: Grad, input: Tensor, weight: Tensor, output: Tensor, groups: int) -> int:
    """Returns what is held where images are in channels_last: the weight in blocks, and its gradient."""
    w = _nbytes(weight)
    if grad != "grad_weight":
        return w
    if not AVX512 and _too_wide(weight):
        return 2 * w + _products(input, weight, output, groups)
    if not AVX512 and _larger_than_image(weight, input):
        return _products(input, weight, output, groups)
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    depthwise = outputs == inputs == 1
    if depthwise and max(weight.shape[2:]) <= 3:
        return 2 * w
    image = not AVX512 and inputs == IMAGE
    padded = w * (inputs if image else _in_blocks(inputs)) * _in_blocks(outputs) // (inputs * outputs)
    wide = 1 if weight.dtype == torch.float32 else 3  # it adds up in float32
    return w + wide * padded


def _put_in_order(images: Tensor) -> int:
    """Returns what it takes to copy images that are not in channels_last."""
    format = torch.channels_last if images.dim() == 4 else torch.channels_last_3d
    return 0 if images.is_contiguous(memory_format=format) else _nbytes(images)


def _channels(input: Tensor, output: Tensor) -> tuple[int, int]:
    return input.shape[1], output.shape[1]


def _in_blocks(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
