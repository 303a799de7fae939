"""Norms, softmax, reductions and pooling: what they run along must stay whole, the other dimensions go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structure import Structure
from torch import Tensor

from ecograph.analysis.rules.call import function_name
from ecograph.analysis.rules.norms import RULES


@dataclass
class Row:
    """One spelling: a function of activations and then weights, their shapes, and which dimensions go on together."""

    name: str
    function: Callable[..., Any]
    shapes: list[tuple[int, ...]]
    links: list[str]
    weights: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        return self.name


def same(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda *tensors: function(*tensors, **options)


def pooled(name: str, dims: int, *args: Any, **options: Any) -> Row:
    shape = (2, 3, *(6, 8, 4)[:dims])
    return Row(name, lambda a: getattr(F, name)(a, *args, **options), [shape], ["a0 y0", "a1 y1"])


B, A = [(4, 3, 5)], [(2, 3, 4)]
ROW, COLUMN, BOTH = ["a0 y0", "a1 y1"], ["a0 y0", "a2 y2"], ["a1 y1", "a2 y2"]
CHANNELS = ((6,), (6,), (6,), (6,))

ROWS = [
    Row("batch_norm", lambda a: F.batch_norm(a, None, None, training=True), B, ["a1 y1"]),
    Row("batch_norm", lambda a: F.batch_norm(a, None, None, training=True), [(9, 4)], ["a1 y1"]),
    Row(
        "batch_norm",
        lambda a, m, v, w, b: F.batch_norm(a, m.detach(), v.detach(), w, b, training=False),
        [(4, 6, 5)],
        ["a1 b0 c0 d0 e0 y1"],
        CHANNELS,
    ),
    Row(
        "batch_norm",
        lambda a, w, b: F.batch_norm(a, None, None, weight=w, bias=b, training=True, momentum=0.2, eps=1e-3),
        [(4, 6, 5, 5)],
        ["a1 b0 c0 y1"],
        CHANNELS[:2],
    ),
    Row("instance_norm", lambda a: F.instance_norm(a), [(4, 3, 5, 6)], ROW),
    Row(
        "instance_norm",
        lambda a, w, b: F.instance_norm(a, weight=w, bias=b),
        [(4, 6, 5)],
        ["a0 y0", "a1 b0 c0 y1"],
        CHANNELS[:2],
    ),
    Row("layer_norm", lambda a: F.layer_norm(a, (4,)), A, ROW),
    Row("layer_norm", lambda a, w, b: F.layer_norm(a, (3, 4), w, b), A, ["a0 y0"], ((3, 4), (3, 4))),
    Row("layer_norm", lambda a, w: F.layer_norm(a, normalized_shape=[4], weight=w), A, ROW, ((4,),)),
    Row("rms_norm", lambda a, w: F.rms_norm(a, (4,), w), A, ROW, ((4,),)),
    Row("rms_norm", lambda a: F.rms_norm(a, (3, 4)), A, ["a0 y0"]),
    Row("group_norm", lambda a: F.group_norm(a, 6), [(2, 6, 5)], ROW),
    Row("group_norm", lambda a: F.group_norm(a, num_groups=1), [(2, 6, 5)], ["a0 y0"]),
    Row(
        "group_norm",
        lambda a, w, b: F.group_norm(a, 3, w, b),
        [(2, 6, 5, 5)],
        ["a0 y0", "a1.0 b0.0 c0.0 y1.0"],
        CHANNELS[:2],
    ),
    Row("group_norm", lambda a, w: F.group_norm(input=a, num_groups=2, weight=w), [(2, 6)],
        ["a0 y0", "a1.0 b0.0 y1.0"], CHANNELS[:1]),
    *(
        Row(name, function, A, links)
        for name in ("softmax", "log_softmax", "softmin")
        for function, links in (
            (same(getattr(F, name), dim=-1), ROW),
            (same(getattr(F, name), dim=1), COLUMN),
            (same(getattr(F, name), dim=0, dtype=torch.float64), BOTH),
        )
    ),
    Row("softmax", lambda a: a.softmax(1), A, COLUMN),
    Row("softmax", lambda a: torch.softmax(a, -1), A, ROW),
    Row("log_softmax", lambda a: a.log_softmax(dim=0), A, BOTH),
    Row("normalize", lambda a: F.normalize(a), A, COLUMN),
    Row("normalize", lambda a: F.normalize(a, dim=-1), A, ROW),
    Row("normalize", lambda a: F.normalize(a, 2.0, 0), A, BOTH),
    Row("cumsum", lambda a: a.cumsum(1), A, COLUMN),
    Row("cumsum", lambda a: torch.cumsum(a, dim=-1), A, ROW),
    Row("cumprod", lambda a: a.cumprod(0), A, BOTH),
    Row("logcumsumexp", lambda a: torch.logcumsumexp(a, 1), A, COLUMN),
    Row("glu", lambda a: F.glu(a), A, [*ROW, "a2.1 y2"]),
    Row("glu", lambda a: F.glu(a, dim=1), [(2, 6, 4)], ["a0 y0", "a1.1 y1", "a2 y2"]),
    *(
        Row(name, function, A, links)
        for name in ("mean", "sum", "amax", "amin", "std", "var", "logsumexp")
        for function, links in (
            (lambda a, name=name: getattr(a, name)(-1), ROW),
            (lambda a, name=name: getattr(torch, name)(a, dim=1), ["a0 y0", "a2 y1"]),
            (lambda a, name=name: getattr(a, name)(1, keepdim=True), COLUMN),
            (lambda a, name=name: getattr(torch, name)(a, (0, 2)), ["a1 y0"]),
            (lambda a, name=name: getattr(a, name)(dim=[-1, 0], keepdim=True), ["a1 y1"]),
        )
    ),
    Row("mean", lambda a: a.mean(), A, []),
    Row("sum", lambda a: a.sum(axis=1), A, []),  # numpy's word for it: not understood
    Row("var", lambda a: a.var(1, unbiased=False), A, ["a0 y0", "a2 y1"]),
    Row("std", lambda a: a.std(False), A, []),
    Row("prod", lambda a: a.prod(1), A, ["a0 y0", "a2 y1"]),
    Row("prod", lambda a: torch.prod(a, dim=-1, keepdim=True), A, ROW),
    Row("all", lambda a: (a > 0).all(-1), A, ROW),
    Row("any", lambda a: torch.any(a > 0, dim=1), A, ["a0 y0", "a2 y1"]),
    Row("norm", lambda a: a.norm(2, -1), [(3, 3, 3)], ROW),
    Row("norm", lambda a: a.norm(2, dim=1), [(3, 3)], ["a0 y0"]),
    Row("norm", lambda a: torch.norm(a, p=1, dim=(0, 1), keepdim=True), [(3, 3, 3)], ["a2 y2"]),
    Row("norm", lambda a: a.norm(), A, []),
    Row("linalg_vector_norm", lambda a: torch.linalg.vector_norm(a, 2, 1), [(3, 3, 3)], ["a0 y0", "a2 y1"]),
    Row("linalg_vector_norm", lambda a: torch.linalg.vector_norm(a, dim=(0, 1)), [(3, 3, 3)], ["a2 y0"]),
    Row("linalg_norm", lambda a: torch.linalg.norm(a, dim=-1, keepdim=True), A, ROW),
    Row("var_mean", lambda a: torch.var_mean(a, 1), A, ["a0 y0 z0", "a2 y1 z1"]),
    Row("std_mean", lambda a: torch.std_mean(a, dim=(0, 2), keepdim=True), A, ["a1 y1 z1"]),
    *(pooled(f"max_pool{n}d", n, 2) for n in (1, 2, 3)),
    *(pooled(f"avg_pool{n}d", n, 2, stride=1) for n in (1, 2, 3)),
    *(pooled(f"lp_pool{n}d", n, 2.0, 2) for n in (1, 2, 3)),
    *(pooled(f"adaptive_avg_pool{n}d", n, 2) for n in (1, 2, 3)),
    *(pooled(f"adaptive_max_pool{n}d", n, output_size=1) for n in (1, 2, 3)),
    Row("max_pool2d", lambda a: torch.max_pool2d(a, 2), [(3, 6, 6)], ["a0 y0"]),  # no batch
    Row("adaptive_avg_pool2d", lambda a: F.adaptive_avg_pool2d(a, (1, None)), [(2, 3, 4, 4)], ROW),
    Row(
        "max_pool2d_with_indices",
        lambda a: F.max_pool2d(a, 2, return_indices=True),
        [(2, 3, 4, 4)],
        ["a0 y0 z0", "a1 y1 z1"],
    ),
    Row("interpolate", lambda a: F.interpolate(a, scale_factor=2), [(2, 3, 4, 4)], ROW),
    Row("interpolate", lambda a: F.interpolate(a, (2, 7), mode="bilinear", align_corners=True), [(2, 3, 4, 4)], ROW),
    Row("interpolate", lambda a: F.interpolate(a, size=9, mode="linear"), A, ROW),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_what_goes_on(row: Row) -> None:
    structure = Structure(
        row.function, [torch.randn(shape) for shape in row.shapes], [torch.rand(shape) + 0.5 for shape in row.weights]
    )
    called = {function_name(n) for n in structure.graph.nodes if n.op in ("call_function", "call_method")}
    assert row.name in called or "pool" in row.name
    assert structure.said() == {" ".join(sorted(names.split())) for names in row.links}
    structure.check()
    assert len(structure.dimensions.stops) > 0 or row.name == "glu"


def test_every_rule_is_tested() -> None:
    elsewhere = {name for name in RULES if name.endswith("_with_indices") or name.startswith("upsample")}
    assert set(RULES) - {row.name for row in ROWS} <= {*elsewhere, "boolean_dispatch"}


def test_the_reason_names_the_call() -> None:
    def norms(a: Tensor) -> tuple[Tensor, ...]:
        return F.layer_norm(a, (4,)), a.mean(1), a.softmax(0)

    reasons = Structure(norms, [torch.randn(2, 3, 4)]).reasons()
    assert reasons == {"layer_norm normalizes over it", "mean runs over it", "softmax runs along it"}
