"""Bytes that operations read and write, as computed by hand from the kernels' definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recorded import recorded
from torch import Tensor

from ecograph.cost.steps.kinds import _KINDS

aten = torch.ops.aten


def f(*shape: int) -> Tensor:
    return torch.zeros(shape)


def i(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


#: A float has 4 bytes, an index 8, a bool 1. x is (4, 5): 80 bytes. A table has 100 rows of 32 bytes; 6 are looked up.
X, Y = f(4, 5), f(4, 5)
TABLE, IDS, ROWS = f(100, 8), i(6), f(6, 8)

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str, int, int]] = {
    "add": (lambda x, y: x + y, (X, Y), "add", 160, 80),
    "add in place": (lambda x, y: x.add_(y), (X, Y), "add_", 160, 80),
    "an operand twice": (lambda x: x * x, (X,), "mul", 80, 80),
    "relu in place": (lambda x: x.relu_(), (X,), "relu_", 80, 80),
    "broadcast": (lambda x, y: x + y, (X, f(5)), "add", 100, 80),
    "expanded": (lambda x, y: x * y.expand(4, 5), (X, f(1, 5)), "mul", 100, 80),
    "into out": (lambda x, y: torch.mul(x, x, out=y), (X, Y), "mul", 80, 80),
    "where": (lambda x, y: torch.where(x > 0, x, y), (X, Y), "where", 180, 80),
    "copy": (lambda x, y: x.copy_(y), (X, Y), "copy_", 80, 80),
    "cast": (lambda x: x.to(torch.bfloat16), (X,), "_to_copy", 80, 40),
    "contiguous": (lambda x: x.t().contiguous(), (X,), "clone", 80, 80),
    "cat": (lambda x, y: torch.cat([x, y]), (X, Y), "cat", 160, 160),
    "slice backward": (lambda g: aten.slice_backward(g, [4, 5], 1, 0, 2, 1), (f(4, 2),), "slice_backward", 32, 80),
    "zeros": (lambda: torch.zeros(4, 5), (), "zeros", 0, 80),
    "zeros like": (lambda x: torch.zeros_like(x), (X,), "zeros_like", 0, 80),
    "new zeros": (lambda x: x.new_zeros(2, 5), (X,), "new_zeros", 0, 40),
    "zero": (lambda x: x.zero_(), (X,), "zero_", 0, 80),
    "fill": (lambda x: x.fill_(1.0), (X,), "fill_", 0, 80),
    "random in place": (lambda x: x.bernoulli_(0.5), (X,), "bernoulli_", 0, 80),
    "random like": (lambda x: torch.rand_like(x), (X,), "rand_like", 0, 80),
    "dropout": (lambda x: aten.native_dropout(x, 0.5, True), (X,), "native_dropout", 80, 100),
    "embedding": (lambda t, n: F.embedding(n, t), (TABLE, IDS), "embedding", 192 + 48, 192),
    "embedding backward": (
        lambda g, n: aten.embedding_dense_backward(g, n, 100, -1, False),
        (ROWS, IDS),
        "embedding_dense_backward",
        192 + 48,
        3200,
    ),
    "rows": (lambda t, n: t.index_select(0, n), (TABLE, IDS), "index_select", 192 + 48, 192),
    "rows by indexing": (lambda t, n: t[n], (TABLE, IDS), "index", 192 + 48, 192),
    "gather": (lambda x, n: x.gather(1, n), (X, i(4, 2)), "gather", 32 + 64, 32),
    "index_copy": (lambda t, n, r: t.index_copy_(0, n, r), (TABLE, IDS, ROWS), "index_copy_", 48 + 192, 192),
    "index_copy out of place": (
        lambda t, n, r: t.index_copy(0, n, r),
        (TABLE, IDS, ROWS),
        "index_copy",
        3200 + 48 + 192,
        3200,
    ),
    "index_add": (lambda t, n, r: t.index_add_(0, n, r), (TABLE, IDS, ROWS), "index_add_", 48 + 2 * 192, 192),
    "index_put": (lambda t, n, r: t.index_put_((n,), r), (TABLE, IDS, ROWS), "index_put_", 48 + 192, 192),
    "index_put of one number": (lambda t, n, r: t.index_put_((n,), r), (TABLE, IDS, f()), "index_put_", 48 + 4, 192),
    "index_put, adding": (
        lambda t, n, r: t.index_put_((n,), r, accumulate=True),
        (TABLE, IDS, ROWS),
        "index_put_",
        48 + 2 * 192,
        192,
    ),
    "index_put of columns": (
        lambda t, n, r: aten.index_put_(t, [None, n], r),
        (TABLE, i(2), f()),
        "index_put_",
        20,
        800,
    ),
    "scatter": (lambda x, n: x.scatter_(1, n, 1.0), (X, i(4, 2)), "scatter_", 64, 32),
    "sum": (lambda x: x.sum(), (X,), "sum", 80, 4),
    "softmax": (lambda x: x.softmax(-1), (X,), "_softmax", 80, 80),
    "layer norm": (
        lambda x, w, b: F.layer_norm(x, (8,), w, b),
        (f(4, 8), f(8), f(8)),
        "native_layer_norm",
        128 + 64,
        128 + 32,
    ),
    "max pool": (lambda x: F.max_pool2d(x, 2), (f(1, 1, 4, 4),), "max_pool2d_with_indices", 64, 16 + 32),
    "max pool backward": (
        lambda g, x, n: aten.max_pool2d_with_indices_backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, n),
        (f(1, 1, 2, 2), f(1, 1, 4, 4), i(1, 1, 2, 2)),
        "max_pool2d_with_indices_backward",
        16 + 32,
        64,
    ),
    "nll loss": (lambda x, n: F.nll_loss(x, n), (f(4, 1000), i(4)), "nll_loss_forward", 16 + 32, 4 + 4),
    "nll loss backward": (
        lambda g, x, n, w: aten.nll_loss_backward(g, x, n, None, 1, -100, w),
        (f(), f(4, 1000), i(4), f()),
        "nll_loss_backward",
        4 + 32 + 4,
        16000,
    ),
    "mm": (lambda x, y: x @ y, (X, f(5, 6)), "mm", 80 + 120, 96),
    "addmm": (lambda b, x, y: torch.addmm(b, x, y), (f(6), X, f(5, 6)), "addmm", 24 + 80 + 120, 96),
    "conv": (F.conv2d, (f(2, 3, 8, 8), f(4, 3, 3, 3), f(4)), "convolution", 1536 + 432 + 16, 1152),
    "attention": (
        F.scaled_dot_product_attention,
        (f(2, 2, 4, 8), f(2, 2, 4, 8), f(2, 2, 4, 8)),
        "_scaled_dot_product_flash_attention_for_cpu",
        3 * 512,
        512 + 64,
    ),
    "many at once": (lambda x, y: torch._foreach_add_([x, y], [y, x]), (X, Y), "_foreach_add_", 160, 160),
}


@pytest.mark.parametrize("name", CASES)
def test_bytes(name: str) -> None:
    function, operands, op_name, read, written = CASES[name]
    ops = recorded(function, *(operand.clone() for operand in operands))
    found = [op for op in ops if op.name == f"aten.{op_name}"]
    assert len(found) == 1, ops
    assert (found[0].read, found[0].written) == (read, written)
    assert found[0].kind != "uncounted"


def test_both_gradients_of_a_convolution() -> None:
    grad, x, w = f(2, 4, 6, 6), f(2, 3, 8, 8), f(4, 3, 3, 3)

    def backward(*given: Tensor) -> Any:
        return aten.convolution_backward(*given, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])

    first, second = recorded(backward, grad, x, w)
    assert (first.grad, first.read, first.written) == ("grad_input", 1152 + 432, 1536)
    assert (second.grad, second.read, second.written) == ("grad_weight", 1152 + 1536, 432)
    assert first.flops == second.flops == 2 * 2 * 36 * 4 * 3 * 9
    assert first.sizes == second.sizes == (2, 1, 3, 4, 9, 64, 36)


def test_views_and_questions_move_nothing() -> None:
    def look(x: Tensor) -> Any:
        return x.t().view(-1)[1:].unsqueeze(0).expand(3, -1), x.shape, x.device, torch.empty_like(x)

    assert recorded(look, f(4, 4).t()) == []


def test_an_operation_that_nobody_knows_is_listed_with_its_bytes() -> None:
    @torch.library.custom_op("ecograph_test::twice", mutates_args=())
    def twice(x: Tensor, y: Tensor) -> Tensor:
        return x * 2

    (op,) = recorded(lambda x, y: torch.ops.ecograph_test.twice(x, y), X, Y)
    assert (op.name, op.kind) == ("ecograph_test.twice", "uncounted")
    assert (op.read, op.written) == (160, 80)


def test_an_operation_is_of_one_kind() -> None:
    names = [name for names in _KINDS.values() for name in names.split()]
    assert len(names) == len(set(names))
