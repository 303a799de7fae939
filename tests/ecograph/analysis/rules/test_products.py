"""Products: input and output channels are dimensions of the weight; what is summed over is masked, not lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structure import Structure
from torch import Tensor

from ecograph.analysis.products import SIGNATURES
from ecograph.analysis.rules.call import function_name
from ecograph.analysis.rules.products import RULES


@dataclass
class Row:
    """One spelling: a function of activations and then weights, their shapes, and which dimensions go on together."""

    name: str
    function: Callable[..., Any]
    shapes: list[tuple[int, ...]]
    weights: list[tuple[int, ...]]
    links: list[str]

    def __repr__(self) -> str:
        return self.name


A, X = [(2, 3, 4)], [(3, 4)]
LINEAR = ["a0 y0", "a1 y1", "a2 b1", "b0 y2"]
#: of a weight that is ``(in, out)``
TURNED = ["a0 y0", "a1 y1", "a2 b0", "b1 y2"]
PLAIN = ["a0 y0", "a1 b0", "b1 y1"]

WEIGHTED = [
    Row("linear", F.linear, A, [(6, 4)], LINEAR),
    Row("linear", lambda a, w, b: F.linear(a, w, b), A, [(6, 4), (6,)], ["a0 y0", "a1 y1", "a2 b1", "b0 c0 y2"]),
    Row("linear", lambda a, w, b: F.linear(input=a, weight=w, bias=b), X, [(6, 4), (6,)],
        ["a0 y0", "a1 b1", "b0 c0 y1"]),
    Row("linear", F.linear, [(4,)], [(6, 4)], ["a0 b1", "b0 y0"]),
    Row("matmul", lambda a, w: a @ w, A, [(4, 6)], TURNED),
    Row("matmul", lambda a, w: a @ w.T, A, [(6, 4)], LINEAR),
    Row("matmul", lambda a, w: a @ w.t(), A, [(6, 4)], LINEAR),
    Row("matmul", lambda a, w: torch.matmul(a, w.transpose(0, 1)), A, [(6, 4)], LINEAR),
    Row("matmul", lambda a, w: a.matmul(w), A, [(4, 6)], TURNED),
    Row("matmul", lambda a, w: torch.matmul(a, other=w), A, [(4, 6)], TURNED),
    Row("mm", torch.mm, X, [(4, 6)], PLAIN),
    Row("mm", lambda a, w: a.mm(mat2=w), X, [(4, 6)], PLAIN),
    Row("addmm", lambda a, w, b: torch.addmm(b, a, w), X, [(4, 6), (6,)], ["a0 y0", "a1 b0", "b1 c0 y1"]),
    Row("addmm", lambda a, w, b: b.addmm(a, w), X, [(4, 6), (6,)], ["a0 y0", "a1 b0", "b1 c0 y1"]),
    Row("addmm", lambda a, w, b: torch.addmm(b, a, w), X, [(4, 6), (3, 6)], ["a1 b0"]),  # a bias for each row
    Row("addmm", lambda a, w, b: torch.addmm(b, a, w), X, [(4, 6), (1,)], PLAIN),
    Row("conv1d", lambda a, w: F.conv1d(a, w, padding=1), A, [(6, 3, 3)], ["a0 y0", "a1 b1", "b0 y1"]),
    Row("conv2d", lambda a, w, b: F.conv2d(a, w, b, stride=2), [(2, 4, 5, 5)], [(6, 4, 3, 3), (6,)],
        ["a0 y0", "a1 b1", "b0 c0 y1"]),
    Row("conv2d", F.conv2d, [(4, 5, 5)], [(6, 4, 3, 3)], ["a0 b1", "b0 y0"]),
    Row("conv3d", F.conv3d, [(2, 4, 3, 3, 3)], [(6, 4, 2, 2, 2)], ["a0 y0", "a1 b1", "b0 y1"]),
    Row("conv2d", lambda a, w, b: F.conv2d(a, w, b, groups=4), [(2, 4, 5, 5)], [(4, 1, 3, 3), (4,)],
        ["a0 y0", "a1 b0 c0 y1"]),
    Row("conv2d", lambda a, w, b: F.conv2d(a, w, b, groups=3), [(2, 6, 5, 5)], [(12, 2, 3, 3), (12,)],
        ["a0 y0", "a1.0 b0.0 c0.0 y1.0", "a1.1 b1", "b0.1 c0.1 y1.1"]),
    Row("conv2d", lambda a, w: F.conv2d(a, w, groups=3), [(2, 3, 5, 5)], [(6, 1, 3, 3)],
        ["a0 y0", "a1 b0.0 y1.0", "b0.1 y1.1"]),
    Row("conv_transpose1d", F.conv_transpose1d, A, [(3, 6, 2)], ["a0 y0", "a1 b0", "b1 y1"]),
    Row("conv_transpose2d", lambda a, w, b: F.conv_transpose2d(a, w, b, stride=2), [(2, 4, 5, 5)],
        [(4, 6, 3, 3), (6,)], ["a0 y0", "a1 b0", "b1 c0 y1"]),
    Row("conv_transpose2d", lambda a, w, b: F.conv_transpose2d(a, w, b, groups=2), [(2, 4, 5, 5)],
        [(4, 3, 3, 3), (6,)], ["a0 y0", "a1.0 b0.0 c0.0 y1.0", "a1.1 b0.1", "b1 c0.1 y1.1"]),
    Row("conv_transpose3d", F.conv_transpose3d, [(2, 4, 3, 3, 3)], [(4, 6, 2, 2, 2)], ["a0 y0", "a1 b0", "b1 y1"]),
]  # fmt: skip

Q = (2, 4, 3, 5)
PLAIN_ROWS = [
    Row("matmul", lambda a, b: a @ b, [(2, 4, 3, 5), (2, 4, 5, 6)], [], ["a0 b0 y0", "a1 b1 y1"]),
    Row("matmul", lambda a, b: torch.matmul(a, b), [(2, 4, 3, 5), (4, 5, 6)], [], ["a0 y0", "a1 b0 y1"]),
    Row("matmul", lambda a, b: a.matmul(b), [(3, 5), (5, 6)], [], []),
    Row("matmul", lambda a, b: a @ b, [(3, 5), (5,)], [], []),
    Row("bmm", torch.bmm, [(4, 3, 5), (4, 5, 6)], [], ["a0 b0 y0"]),
    Row("bmm", lambda a, b: a.bmm(b.transpose(1, 2)), [(4, 3, 5), (4, 6, 5)], [], ["a0 b0 y0"]),
    Row("bmm", lambda a: torch.bmm(a, a), [(4, 3, 3)], [], ["a0 y0"]),
    Row("mm", lambda a, b: a.mm(b), [(3, 5), (5, 6)], [], []),
    Row("baddbmm", torch.baddbmm, [(4, 3, 6), (4, 3, 5), (4, 5, 6)], [], ["a0 b0 c0 y0"]),
    Row("baddbmm", lambda a, b, c: a.baddbmm(b, c, alpha=2), [(1, 1, 6), (4, 3, 5), (4, 5, 6)], [], ["b0 c0 y0"]),
    Row("scaled_dot_product_attention", F.scaled_dot_product_attention, [Q, Q, Q], [],
        ["a0 b0 c0 y0", "a1 b1 c1 y1", "a2 y2"]),
    Row(
        "scaled_dot_product_attention",
        lambda a, b, c: F.scaled_dot_product_attention(a, b, c, is_causal=True, scale=0.3),
        [(4, 3, 5), (4, 6, 5), (4, 6, 2)],
        [],
        ["a0 b0 c0 y0"],
    ),
    Row(
        "scaled_dot_product_attention",
        lambda a, b, c, d: F.scaled_dot_product_attention(a, b, c, d),
        [Q, Q, Q, (4, 3, 3)],
        [],
        ["a0 b0 c0 y0", "a1 b1 c1 d0 y1", "a2 d1 y2"],
    ),
    Row(
        "scaled_dot_product_attention",
        lambda a, b, c, d: F.scaled_dot_product_attention(a, b, c, attn_mask=d > 0),
        [Q, Q, Q, (2, 1, 1, 3)],
        [],
        ["a0 b0 c0 d0 y0", "a1 b1 c1 y1", "a2 y2"],
    ),
    Row(
        "scaled_dot_product_attention",
        lambda a, b, c: F.scaled_dot_product_attention(a, b, c, enable_gqa=True),
        [(2, 12, 3, 5), (2, 4, 3, 5), (2, 4, 3, 5)],
        [],
        ["a0 b0 c0 y0", "a1.0 b1 c1 y1.0", "a2 y2"],
    ),
    Row("embedding", lambda a, w: F.embedding((a > 0).long(), w), [(2, 3)], [(7, 5)], ["a0 y0", "a1 y1", "b1 y2"]),
    Row("embedding", lambda a, w: F.embedding((a > 0).long(), weight=w, padding_idx=0), [(2, 3)], [(7, 5)],
        ["a0 y0", "a1 y1", "b1 y2"]),
    Row("gather", lambda a, b: a.gather(1, (b > 0).long()), [(2, 3, 4), (2, 5, 4)], [], ["a0 b0 y0", "a2 b2 y2"]),
    Row("gather", lambda a, b: torch.gather(a, dim=-1, index=(b > 0).long()), [(2, 3, 4), (2, 2, 5)], [],
        ["a0 b0 y0"]),
    Row("einsum", lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), [(2, 4, 3, 5), (2, 4, 6, 5)], [],
        ["a0 b0 y0", "a1 b1 y1", "a2 y2", "b2 y3"]),
    Row("einsum", lambda a, b: torch.einsum("b i, b j -> i b j", [a, b]), [(2, 4), (2, 6)], [],
        ["a0 b0 y1", "a1 y0", "b1 y2"]),
    Row("einsum", lambda a: torch.einsum("bii->bi", a), [(2, 4, 4)], [], ["a0 y0", "a1 a2 y1"]),
    Row("einsum", lambda a, b: torch.einsum("...i,...i->...", a, b), [(2, 4), (2, 4)], [], []),
    Row("einsum", lambda a, b: torch.einsum("bi,bj", a, b), [(2, 4), (2, 6)], [], []),
]  # fmt: skip


def structure_of(row: Row) -> Structure:
    return Structure(
        row.function, [torch.randn(shape) for shape in row.shapes], [torch.randn(shape) for shape in row.weights]
    )


def links(row: Row) -> set[str]:
    return {" ".join(sorted(names.split())) for names in row.links}


@pytest.mark.parametrize("row", WEIGHTED, ids=repr)
def test_channels_are_those_of_the_weight(row: Row) -> None:
    structure = structure_of(row)
    assert len(structure.sites) == 1
    assert structure.said() == links(row)
    assert structure.check(summed=True) >= 1


@pytest.mark.parametrize("row", PLAIN_ROWS, ids=repr)
def test_products_of_activations_keep_batches_and_heads(row: Row) -> None:
    structure = structure_of(row)
    called = {function_name(n) for n in structure.graph.nodes if n.op in ("call_function", "call_method")}
    assert row.name in called
    assert structure.said() == links(row)
    structure.check()


def test_every_rule_and_every_way_to_multiply_is_tested() -> None:
    assert set(RULES) <= {row.name for row in PLAIN_ROWS}
    assert {function.__name__.strip("_") for function in SIGNATURES} == {row.name for row in WEIGHTED}


REFUSED = [
    ("einsum", lambda a, w: torch.einsum("bti,oi->bto", a, w), [(2, 3, 4)], [(6, 4)], "an einsum is not rewritten"),
    ("left", lambda a, w: w @ a, [(2, 4, 3)], [(6, 4)], "the weight is the left operand of the product"),
    ("batched", lambda a, w: a @ w, [(2, 3, 4)], [(2, 4, 5)], "a batched weight is not rewritten"),
    ("vector", lambda a, w: a @ w, [(2, 3, 4)], [(4,)], "the weight is a vector"),
    ("alpha", lambda a, w, b: torch.addmm(b, a, w, alpha=2), [(3, 4)], [(4, 6), (6,)],
     "addmm with alpha or beta other than 1 is not rewritten"),
    ("bilinear", lambda a, w: F.bilinear(a, a, w), [(3, 4)], [(5, 4, 4)], "a bilinear form is not rewritten"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "shapes", "weights", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_product_that_no_pass_rewrites_stops_everything(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]], weights: list[tuple[int, ...]], why: str
) -> None:
    structure = Structure(function, list(map(torch.randn, shapes)), list(map(torch.randn, weights)))
    assert structure.said() == set()
    assert any(reason.endswith(why) for reason in structure.reasons())


def test_a_table_whose_rows_are_limited_in_norm_stays_whole() -> None:
    def limited(a: Tensor, w: Tensor) -> Tensor:
        return F.embedding((a > 0).long(), w.detach(), max_norm=1.0)

    structure = Structure(limited, [torch.randn(2, 3)], [torch.randn(7, 5)])
    assert "embedding limits the norm of its rows" in structure.reasons()
