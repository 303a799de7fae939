"""What is timed to know a device: operations as they occur in training, at sizes from tiny to large.

None of the sizes is taken from a particular model: products go over a grid of widths and positions, all else over
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.steps.op import Grad, Phase

aten = torch.ops.aten

#: Makes the operands of a call, anew each time, so that they are not in a cache from the call before.
Make = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Workload:
    """One call to time.

    Attributes:
        label: for the progress bar.
        run: the call, of the operands.
        make: makes the operands.
        phase: ``"forward"``: results are kept for the backward, so each is new memory. ``"backward"``: they are freed
            soon, and their memory is used again. ``"optimizer"``: the same, in its step.
        grad: which gradient a product computes, or "".
        warm: which operand the operation before has just written, as in a step; None where all come from memory.
    """

    label: str
    run: Callable[..., Any]
    make: Make
    phase: Phase
    grad: Grad = ""
    warm: int | None = 0


_NOISE = torch.Generator().manual_seed(0)
_noise: dict[torch.dtype, Tensor] = {}


def noise(*shape: int, dtype: torch.dtype) -> Tensor:
    """Returns random numbers, most of them copied from the last ones: to draw them takes longer than to use them."""
    count = math.prod(shape)
    known = _noise.get(dtype)
    if known is None or known.numel() < min(count, 2**22):
        known = _noise[dtype] = torch.randn(2**22, generator=_NOISE).to(dtype)
    if count <= known.numel():
        return known[:count].view(shape).clone()
    return known.repeat(-(-count // known.numel()))[:count].view(shape)


#: Widths of layers, and how many rows a batch has for them.
_WIDTHS = (64, 256, 1024, 4096)
_ROWS = (8, 128, 2048)
#: Largest matrix product that is timed, in FLOPs.
_MOST = 2.2e9


def matmuls(dtype: torch.dtype) -> Iterator[Workload]:
    """Yields the three products of linear layers."""
    for rows in _ROWS:
        for inputs in _WIDTHS:
            for outputs in _WIDTHS:
                if 2 * rows * inputs * outputs > _MOST or max(inputs, outputs) > 4 * min(inputs, outputs):
                    continue
                yield from _linear(rows, inputs, outputs, dtype)


def _linear(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> Iterator[Workload]:
    def make() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            noise(rows, inputs, dtype=dtype),
            noise(outputs, inputs, dtype=dtype),
            noise(rows, outputs, dtype=dtype),
            noise(outputs, dtype=dtype),
        )

    label = f"linear {rows}x{inputs}x{outputs}"
    yield Workload(label, lambda x, w, g, b: aten.addmm(b, x, w.t()), make, "forward")
    yield Workload(label, lambda x, w, g, b: aten.mm(g, w), make, "backward", "grad_input", warm=2)
    yield Workload(label, lambda x, w, g, b: aten.mm(g.t(), x), make, "backward", "grad_weight", warm=2)


def batched_matmuls(dtype: torch.dtype) -> Iterator[Workload]:
    """Yields the products of attention that is written out, and attention in one call."""
    for batch, length, width in [
        (12, 64, 64),
        (12, 256, 64),
        (96, 64, 64),
        (96, 256, 64),
        (384, 64, 32),
        (16, 512, 64),
    ]:

        def make(shape: tuple[int, int, int] = (batch, length, width)) -> tuple[Tensor, Tensor, Tensor]:
            batch, length, width = shape
            return (
                noise(batch, length, width, dtype=dtype),
                noise(batch, length, width, dtype=dtype),
                noise(batch, length, length, dtype=dtype),
            )

        label = f"bmm {batch}x{length}x{width}"
        yield Workload(label, lambda q, k, s: aten.bmm(q, k.transpose(1, 2)), make, "forward")
        yield Workload(label, lambda q, k, s: aten.bmm(s, k), make, "forward")
        # No operand is a weight, so a step has both gradients as grad_input.
        yield Workload(label, lambda q, k, s: aten.bmm(s.transpose(1, 2), q), make, "backward", "grad_input")
        yield Workload(label, lambda q, k, s: aten.bmm(q, k.transpose(1, 2)), make, "backward", "grad_input")

        def make4(shape: tuple[int, int, int] = (batch, length, width)) -> tuple[Tensor, ...]:
            batch, length, width = shape
            heads = 12 if batch % 12 == 0 else 8
            return tuple(noise(batch // heads, heads, length, width, dtype=dtype) for _ in range(3))

        def make_backward(make4: Any = make4) -> tuple[Any, ...]:
            q, k, v = make4()
            out, scale = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
            return torch.randn_like(out), q, k, v, out, scale

        label = f"attention {batch}x{length}x{width}"
        yield Workload(label, aten._scaled_dot_product_flash_attention_for_cpu, make4, "forward")
        yield Workload(
            label,
            lambda g, q, k, v, out, scale: aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, q, k, v, out, scale, 0.0, False
            ),
            make_backward,
            "backward",
        )


@dataclass(frozen=True)
class Conv:
    """A convolution to time."""

    images: int
    inputs: int
    outputs: int
    kernel: int
    size: int
    stride: int = 1
    groups: int = 1

    @property
    def flops(self) -> int:
        """Of its forward."""
        positions = math.ceil(self.size / self.stride) ** 2
        return 2 * self.images * positions * self.outputs * self.inputs // self.groups * self.kernel**2

    def __str__(self) -> str:
        shape = f"{self.images}x{self.inputs}x{self.size}x{self.size}"
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"conv {self.kernel}x{self.kernel} {shape} to {self.outputs}{groups}"


#: width of a convolution -> the resolutions at which it is timed. Width goes up as resolution goes down.
_PYRAMID = {16: (112,), 32: (32,), 64: (56, 16), 128: (28,), 256: (14, 8), 512: (7, 4)}
#: Images in a batch, at most. Where a convolution of so many takes too long, it is timed with fewer.
_IMAGES = (1, 16)
#: Largest convolution that is timed, in FLOPs: rates of larger ones are no different.
_MOST_CONV = 7e8


def convs(format: torch.memory_format = torch.contiguous_format) -> list[Conv]:
    """Returns convolutions over the widths and resolutions at which networks have them.

    In channels_last there are fewer: rates differ less there between sizes, since nothing is copied into blocks.
    """
    few = format == torch.channels_last
    found: list[Conv] = []
    for images in _IMAGES:
        for width, sizes in _PYRAMID.items():
            for size in sizes[:1] if few else sizes:
                found += [Conv(images, width, width, kernel, size) for kernel in (1, 3)]
                if size % 2 == 0 and not (few and width < 64):
                    found.append(Conv(images, width, 2 * width, 3, size, stride=2))
            found.append(Conv(images, width, 4 * width, 1, sizes[0]))
            if not few:
                found.append(Conv(images, 4 * width, width, 1, sizes[0]))
        found += [Conv(images, 3, 64, 7, 224, 2), Conv(images, 3, 32, 3, 224, 2), Conv(images, 3, 64, 3, 32)]
        found += [Conv(images, 3, 96, 4, 224, 4), Conv(images, 3, 192, 16, 224, 16)]
        # On one position: squeeze and excite.
        found += [Conv(images, *widths, 1, 1) for widths in ((64, 16), (16, 64), (512, 128), (128, 512))]
        for width, size in ((32, 112), (144, 28), (384, 14), (768, 7)):
            found += [Conv(images, width, width, kernel, size, groups=width) for kernel in (3, 5, 7)]
            if size % 2 == 0 and width > 32:
                found += [Conv(images, width, width, kernel, size, 2, groups=width) for kernel in (3, 5)]
                groups = width // 16
                # Also with few output channels, of which a group is no block: those take longer than blocks do.
                found += [Conv(images, width, groups * outputs, 3, size, groups=groups) for outputs in (16, 8, 3)]
    return list(dict.fromkeys(map(_bounded, found)))


def _bounded(conv: Conv) -> Conv:
    """Returns a convolution of fewer images where one of all takes too long."""
    while conv.flops > _MOST_CONV and conv.images > 1:
        conv = replace(conv, images=conv.images // 2)
    return conv


def all_convs(dtype: torch.dtype, format: torch.memory_format) -> Iterator[Workload]:
    """Yields the products of all convolutions in a memory format."""
    for conv in convs(format):
        yield from conv_workloads(conv, dtype, format)


def conv_workloads(conv: Conv, dtype: torch.dtype, format: torch.memory_format) -> Iterator[Workload]:
    """Yields the three products of a convolution."""
    padding = [0 if conv.kernel == conv.stride else (conv.kernel - 1) // 2] * 2
    stride = [conv.stride] * 2

    def make() -> tuple[Tensor, Tensor, Tensor]:
        x = noise(conv.images, conv.inputs, conv.size, conv.size, dtype=dtype)
        w = noise(conv.outputs, conv.inputs // conv.groups, conv.kernel, conv.kernel, dtype=dtype)
        x, w = (each.contiguous(memory_format=format) for each in (x, w))
        out = (conv.size + 2 * padding[0] - conv.kernel) // conv.stride + 1
        g = noise(conv.images, conv.outputs, out, out, dtype=dtype).contiguous(memory_format=format)
        return x, w, g

    def forward(x: Tensor, w: Tensor, g: Tensor) -> Any:
        return aten.convolution(x, w, None, stride, padding, [1, 1], False, [0, 0], conv.groups)

    def backward(x: Tensor, w: Tensor, g: Tensor, mask: list[bool]) -> Any:
        return aten.convolution_backward(g, x, w, None, stride, padding, [1, 1], False, [0, 0], conv.groups, mask)

    yield Workload(str(conv), forward, make, "forward")
    if conv.inputs > 3:  # images need no gradient
        yield Workload(
            str(conv), lambda x, w, g: backward(x, w, g, [True, False, False]), make, "backward", "grad_input", warm=2
        )
    yield Workload(
        str(conv), lambda x, w, g: backward(x, w, g, [False, True, False]), make, "backward", "grad_weight", warm=2
    )


#: Elements of the tensors on which all that is not a product is timed.
_ELEMENTS = (2**10, 2**17, 2**22)


def others(dtype: torch.dtype) -> Iterator[Workload]:
    """Yields all that is no product: each on images, or on rows of features, as it occurs."""
    for elements in _ELEMENTS:
        for name, run, operands, phase in _others(elements, dtype):
            # The optimizer comes to each parameter after all others.
            yield Workload(f"{name} of {elements}", run, operands, phase, warm=None if phase == "optimizer" else 0)


def _others(elements: int, dtype: torch.dtype) -> Iterator[tuple[str, Callable[..., Any], Make, Phase]]:
    width = 256 if elements >= 2**16 else 64
    rows = elements // width

    def t(*shape: int) -> Tensor:
        return noise(*shape, dtype=dtype)

    def one() -> tuple[Tensor, ...]:
        return (t(rows, width),)

    def two() -> tuple[Tensor, ...]:
        return t(rows, width), t(rows, width)

    def three() -> tuple[Tensor, ...]:
        return t(rows, width), t(rows, width), t(rows, width)

    def row() -> tuple[Tensor, ...]:
        return t(rows, width), t(width)

    # Forward, writing new memory.
    for name in ("relu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "exp", "sqrt", "neg", "clone", "hardsigmoid"):
        yield name, getattr(aten, name), one, "forward"
    yield "hardtanh", lambda x: aten.hardtanh(x, 0.0, 6.0), one, "forward"
    yield "pow", lambda x: aten.pow(x, 3), one, "forward"
    yield "square", lambda x: aten.pow(x, 2), one, "forward"
    yield "add", aten.add, two, "forward"
    yield "mul", aten.mul, two, "forward"
    yield "div", aten.div, two, "forward"
    yield "add row", aten.add, row, "forward"
    yield "mul number", lambda x: aten.mul(x, 0.5), one, "forward"
    yield "native_dropout", lambda x: aten.native_dropout(x, 0.1, True), one, "forward"
    yield "bernoulli_", lambda x: aten.bernoulli_(x, 0.9), one, "forward"
    yield "cat", lambda x, y: aten.cat([x, y], 1), two, "forward"
    yield "clone transposed", lambda x: aten.clone(x.t(), memory_format=torch.contiguous_format), one, "forward"
    yield "softmax", lambda x: aten._softmax(x, -1, False), one, "forward"
    yield "log_softmax", lambda x: aten._log_softmax(x, -1, False), one, "forward"
    yield "layer_norm", lambda x, w: aten.native_layer_norm(x, [width], w, w, 1e-5), row, "forward"
    yield "mean", lambda x: aten.mean(x, [-1], True), one, "forward"
    yield "sum", lambda x: aten.sum(x, [0]), one, "backward"
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    yield "_to_copy", lambda x: aten._to_copy(x, dtype=other), one, "forward"
    yield "_to_copy", lambda x: aten._to_copy(x, dtype=other), one, "backward"
    # In place, and in the backward.
    yield "relu_", aten.relu_, one, "forward"
    yield "add_", aten.add_, two, "forward"
    yield "add_", aten.add_, two, "backward"
    yield "mul_", lambda x: aten.mul_(x, 0.5), one, "optimizer"
    yield "lerp_", lambda x, y: aten.lerp_(x, y, 0.1), two, "optimizer"
    yield "addcmul_", aten.addcmul_, three, "optimizer"
    yield "addcdiv_", aten.addcdiv_, three, "optimizer"
    yield "add_ number", lambda x: aten.add_(x, 1e-8), one, "optimizer"
    yield "sqrt", aten.sqrt, one, "optimizer"
    yield "div", lambda x: aten.div(x, 0.5), one, "optimizer"
    yield "zeros_like", aten.zeros_like, one, "backward"
    yield "add", aten.add, two, "backward"
    yield "mul", aten.mul, two, "backward"
    yield "mul number", lambda x: aten.mul(x, 0.5), one, "backward"
    yield "clone", aten.clone, one, "backward"
    yield "clone transposed", lambda x: aten.clone(x.t(), memory_format=torch.contiguous_format), one, "backward"
    yield "cat", lambda x, y: aten.cat([x, y], 1), two, "backward"
    yield "threshold_backward", lambda g, x: aten.threshold_backward(g, x, 0), two, "backward"
    yield "gelu_backward", aten.gelu_backward, two, "backward"
    yield "silu_backward", aten.silu_backward, two, "backward"
    yield "tanh_backward", aten.tanh_backward, two, "backward"
    yield "sigmoid_backward", aten.sigmoid_backward, two, "backward"
    yield "hardswish_backward", aten.hardswish_backward, two, "backward"
    yield "hardsigmoid_backward", aten.hardsigmoid_backward, two, "backward"
    yield "hardtanh_backward", lambda g, x: aten.hardtanh_backward(g, x, 0.0, 6.0), two, "backward"
    yield "softmax_backward", lambda g, x: aten._softmax_backward_data(g, x, -1, dtype), two, "backward"
    yield "log_softmax_backward", lambda g, x: aten._log_softmax_backward_data(g, x, -1, dtype), two, "backward"

    def normed() -> tuple[Any, ...]:
        x, w = row()
        return t(rows, width), x, *aten.native_layer_norm(x, [width], w, w, 1e-5)[1:], w

    yield (
        "layer_norm_backward",
        lambda g, x, mean, rstd, w: aten.native_layer_norm_backward(g, x, [width], mean, rstd, w, w, [True] * 3),
        normed,
        "backward",
    )

    def masked() -> tuple[Tensor, ...]:
        return t(rows, width), torch.rand(rows, width) < 0.9

    yield "dropout_backward", lambda g, m: aten.native_dropout_backward(g, m, 1.1), masked, "backward"
    yield "masked_fill", lambda x, m: aten.masked_fill(x, m, 0.0), masked, "forward"

    def table() -> tuple[Tensor, ...]:
        return t(8192, width), torch.randint(8192, (rows,))

    yield "embedding", aten.embedding, table, "forward"
    yield (
        "embedding_backward",
        lambda g, ids: aten.embedding_dense_backward(g, ids, 8192, -1, False),
        lambda: (t(rows, width), torch.randint(8192, (rows,))),
        "backward",
    )
    # Choosing channels: taking rows and columns, putting them back, and what tells which.
    chosen = torch.arange(0, width, 4)
    some_rows = torch.arange(0, rows, 4)
    columns = chosen.expand(rows, -1)
    yield "index_select", lambda x: aten.index_select(x, 0, some_rows), one, "backward"
    yield "index_select", lambda x: aten.index_select(x, 1, chosen), one, "backward"
    yield "gather", lambda x: aten.gather(x, 1, columns), one, "backward"
    yield (
        "index_copy_",
        lambda y, x: aten.index_copy_(x, 0, some_rows, y),
        lambda: (t(len(some_rows), width), t(rows, width)),
        "backward",
    )
    yield "zero_", aten.zero_, one, "backward"
    yield "fill_", lambda x: aten.fill_(x, 1.0), one, "backward"
    yield "copy_", lambda x, y: aten.copy_(y, x), two, "backward"
    yield "abs", aten.abs, one, "backward"
    yield "sub", aten.sub, two, "backward"
    yield "sum of rows", lambda x: aten.sum(x, [1]), one, "backward"
    if elements <= 2**17:
        scored = 128 if elements <= 2**10 else 2048
        yield "topk", lambda x: aten.topk(x, x.numel() // 5, -1, True, False), lambda: (t(scored),), "backward"
        yield "sort", aten.sort, lambda: (torch.randperm(scored // 5),), "backward"

    # Images.
    size = 8 if elements <= 2**16 else 32
    channels = 16 if elements <= 2**10 else 64
    images = max(1, elements // (channels * size * size))

    def image() -> tuple[Tensor, ...]:
        return (t(images, channels, size, size),)

    def batch_norm() -> tuple[Tensor, ...]:
        c = torch.float32
        return (*image(), *(torch.ones(channels, dtype=c) for _ in range(4)))

    yield (
        "batch_norm",
        lambda x, w, b, m, v: aten.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-5),
        batch_norm,
        "forward",
    )

    def batch_normed() -> tuple[Any, ...]:
        x, w, b, m, v = batch_norm()
        return *image(), x, w, m, v, *aten.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-5)[1:]

    yield (
        "batch_norm_backward",
        lambda g, x, w, m, v, mean, rstd: aten.native_batch_norm_backward(
            g, x, w, m, v, mean, rstd, True, 1e-5, [True] * 3
        ),
        batch_normed,
        "backward",
    )

    def group_norm() -> tuple[Tensor, ...]:
        return *image(), *(torch.ones(channels, dtype=dtype) for _ in range(2))

    def run_group_norm(x: Tensor, w: Tensor, b: Tensor) -> Any:
        return aten.native_group_norm(x, w, b, images, channels, size * size, 8, 1e-5)

    yield "group_norm", run_group_norm, group_norm, "forward"

    def group_normed() -> tuple[Any, ...]:
        x, w, b = group_norm()
        return *image(), x, *run_group_norm(x, w, b)[1:], w

    yield (
        "group_norm_backward",
        lambda g, x, mean, rstd, w: aten.native_group_norm_backward(
            g, x, mean, rstd, w, images, channels, size * size, 8, [True] * 3
        ),
        group_normed,
        "backward",
    )
    yield "max_pool", lambda x: aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1]), image, "forward"

    def pooled() -> tuple[Any, ...]:
        (x,) = image()
        out, indices = aten.max_pool2d_with_indices(x, [3, 3], [2, 2], [1, 1])
        return torch.randn_like(out), x, indices

    yield (
        "max_pool_backward",
        lambda g, x, i: aten.max_pool2d_with_indices_backward(g, x, [3, 3], [2, 2], [1, 1], [1, 1], False, i),
        pooled,
        "backward",
    )
    yield "avg_pool", lambda x: aten.avg_pool2d(x, [2, 2], [2, 2]), image, "forward"
    yield "mean of positions", lambda x: aten.mean(x, [-1, -2], True), image, "forward"
    yield (
        "upsample_nearest",
        lambda x: aten.upsample_nearest2d(x, [2 * size, 2 * size]),
        lambda: (t(max(1, images // 4), channels, size, size),),
        "forward",
    )

    def channel() -> tuple[Tensor, ...]:
        return *image(), t(images, channels, 1, 1)

    yield "mul channel", aten.mul, channel, "forward"
    yield (
        "to channels_last",
        lambda x: aten.clone(x, memory_format=torch.channels_last),
        image,
        "forward",
    )
    # What each element of a sum over classes costs.
    labels = torch.randint(width, (rows,))
    yield "nll_loss", lambda x: aten.nll_loss_forward(x, labels, None, 1, -100), one, "forward"
    total = torch.ones((), dtype=dtype) * rows
    yield (
        "nll_loss_backward",
        lambda g, x: aten.nll_loss_backward(g, x, labels, None, 1, -100, total),
        lambda: (torch.ones((), dtype=dtype), t(rows, width)),
        "backward",
    )
    yield (
        "upsample_nearest_backward",
        lambda g: aten.upsample_nearest2d_backward(g, [size, size], [images, channels, size // 2, size // 2]),
        image,
        "backward",
    )
