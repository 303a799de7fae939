"""All that is no product and is computed of rows of features, or of each number by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.calibration.workloads.workload import Call, noise

aten = torch.ops.aten


def on_rows(elements: int, dtype: torch.dtype) -> Iterator[Call]:
    """Yields all that is computed of rows of features, for so many elements in all."""
    width = 256 if elements >= 2**16 else 64
    rows = elements // width

    def t(*shape: int) -> Tensor:
        return noise(*shape, dtype=dtype)

    def one() -> tuple[Tensor, ...]:
        return (t(rows, width),)

    def two() -> tuple[Tensor, ...]:
        return t(rows, width), t(rows, width)

    def row() -> tuple[Tensor, ...]:
        return t(rows, width), t(width)

    # Forward, writing new memory.
    for name in ("relu", "gelu", "silu", "tanh", "sigmoid", "hardswish", "exp", "neg", "clone", "hardsigmoid"):
        yield name, getattr(aten, name), one, "forward"
    # Of a negative number it would take twenty times as long.
    yield "sqrt", aten.sqrt, lambda: (t(rows, width).abs_(),), "forward"
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
