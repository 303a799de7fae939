"""Calls that only move elements: which dimensions go on, as which factors or segments of which others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from structure import Structure

from ecograph.analysis.rules.call import function_name
from ecograph.analysis.rules.shapes import RULES


@dataclass
class Row:
    """One spelling.

    Attributes:
        function: of tensors ``a``, ``b``, ...
        shapes: of these.
        links: the sets of dimensions that go on together: ``"a1 y2"``. ``y2.0`` is the outer factor of ``y2``, ``y2/1``
            its second segment; results are ``y``, ``z``, ``u``. Everything else must be stopped.
        least: the fewest units of a slice: one is not as good as many where dimensions of size 1 are dropped.
        name: the rule that is tested.
    """

    function: Callable[..., Any]
    shapes: list[tuple[int, ...]]
    links: list[str]
    least: int = 1
    name: str = field(default="", kw_only=True)

    def __repr__(self) -> str:
        return self.name


def rows(name: str, *cases: Row) -> list[Row]:
    for case in cases:
        case.name = name
    return list(cases)


A, AB = [(2, 3, 4)], [(2, 3, 4), (2, 3, 4)]
ALL = ["a0 y0", "a1 y1", "a2 y2"]

ROWS = [
    *rows(
        "view",
        Row(lambda a: a.view(2, 12), A, ["a0 y0", "a1 y1.0", "a2 y1.1"]),
        Row(lambda a: a.view(-1, 4), A, ["a0 y0.0", "a1 y0.1", "a2 y1"]),
        Row(lambda a: a.view((2, 3, 2, 2)), A, ["a0 y0", "a1 y1", "a2.0 y2", "a2.1 y3"]),
        Row(lambda a: a.view(torch.Size([2, 1, 3, -1, 1])), A, ["a0 y0", "a1 y2", "a2 y3"]),
        Row(lambda a: a.view(3, 2, 4), A, ["a2 y2"]),  # cuts through both
        Row(lambda a: a.view(24), A, ["a0 y0.0", "a1 y0.1", "a2 y0.2"]),
        Row(lambda a: a.view(2, 2, 3), [(2, 6)], ["a0 y0", "a1.0 y1", "a1.1 y2"]),
        Row(lambda a: a.view(2, 2, 3).view(2, 3, 2), [(2, 6)], ["a0 y0"]),  # 2 x 3 and 3 x 2 do not agree
        Row(lambda a: a.view(2, 2, 6).view(2, 4, 3), [(2, 12)], ["a0 y0", "a1.0 y1.0", "a1.1 y1.1", "a1.2 y2"]),
    ),
    *rows(
        "reshape",
        Row(lambda a: a.reshape(6, 4), A, ["a0 y0.0", "a1 y0.1", "a2 y1"]),
        Row(lambda a: torch.reshape(a, (2, -1)), A, ["a0 y0", "a1 y1.0", "a2 y1.1"]),
        Row(lambda a: torch.reshape(input=a, shape=(2, 3, 2, 2)), A, ["a0 y0", "a1 y1", "a2.0 y2", "a2.1 y3"]),
    ),
    *rows(
        "view_as",
        Row(lambda a, b: a.view_as(b), [(2, 12), (2, 3, 4)], ["a0 b0 y0", "a1.0 b1 y1", "a1.1 b2 y2"]),
    ),
    *rows(
        "reshape_as",
        Row(lambda a, b: a.reshape_as(b), [(2, 3, 4), (6, 4)], ["a0 b0.0 y0.0", "a1 b0.1 y0.1", "a2 b1 y1"]),
    ),
    *rows(
        "flatten",
        Row(lambda a: a.flatten(1), A, ["a0 y0", "a1 y1.0", "a2 y1.1"]),
        Row(lambda a: torch.flatten(a, start_dim=0, end_dim=1), A, ["a0 y0.0", "a1 y0.1", "a2 y1"]),
        Row(torch.flatten, A, ["a0 y0.0", "a1 y0.1", "a2 y0.2"]),
    ),
    *rows(
        "unflatten",
        Row(lambda a: a.unflatten(-1, (2, 2)), A, ["a0 y0", "a1 y1", "a2.0 y2", "a2.1 y3"]),
        Row(lambda a: a.unflatten(2, (-1, 2)), A, ["a0 y0", "a1 y1", "a2.0 y2", "a2.1 y3"]),
        Row(lambda a: torch.unflatten(a, dim=0, sizes=(1, 2)), A, ["a0 y1", "a1 y2", "a2 y3"]),
    ),
    *rows(
        "squeeze",
        Row(lambda a: a.squeeze(), [(4, 1, 6, 1)], ["a0 y0", "a2 y1"], least=2),
        Row(lambda a: torch.squeeze(a, dim=1), [(2, 1, 3, 1)], ["a0 y0", "a2 y1"]),
    ),
    *rows(
        "unsqueeze",
        Row(lambda a: a.unsqueeze(1), A, ["a0 y0", "a1 y2", "a2 y3"]),
        Row(lambda a: torch.unsqueeze(a, -1), A, ALL),
    ),
    *rows(
        "permute",
        Row(lambda a: a.permute(2, 0, 1), A, ["a0 y1", "a1 y2", "a2 y0"]),
        Row(lambda a: torch.permute(a, (0, 2, -2)), A, ["a0 y0", "a1 y2", "a2 y1"]),
        Row(lambda a: a.permute(dims=(1, 0, 2)), A, ["a0 y1", "a1 y0", "a2 y2"]),
        Row(lambda a: a.permute(8, 7, 6, 5, 4, 3, 2, 1, 0), [(2, 3, 1, 1, 1, 1, 1, 1, 4)], ["a0 y8", "a1 y7", "a8 y0"]),
    ),
    *rows(
        "transpose",
        Row(lambda a: a.transpose(1, 2), A, ["a0 y0", "a1 y2", "a2 y1"]),
        Row(lambda a: torch.transpose(a, dim0=-1, dim1=0), A, ["a0 y2", "a1 y1", "a2 y0"]),
    ),
    *rows("t", Row(lambda a: a.t(), [(2, 3)], ["a0 y1", "a1 y0"])),
    *rows("swapaxes", Row(lambda a: a.swapaxes(0, 2), A, ["a0 y2", "a1 y1", "a2 y0"])),
    *rows("swapdims", Row(lambda a: torch.swapdims(a, 0, 1), A, ["a0 y1", "a1 y0", "a2 y2"])),
    *rows("movedim", Row(lambda a: a.movedim(0, 2), A, ["a0 y2", "a1 y0", "a2 y1"])),
    *rows("moveaxis", Row(lambda a: torch.moveaxis(a, (0, 1), (1, 0)), A, ["a0 y1", "a1 y0", "a2 y2"])),
    *rows("adjoint", Row(lambda a: a.adjoint(), A, ["a0 y0", "a1 y2", "a2 y1"])),
    *rows(
        "getattr",
        Row(lambda a: a.mT + 0, A, ["a0 y0", "a1 y2", "a2 y1"]),
        Row(lambda a: a.T + 0, [(2, 3)], ["a0 y1", "a1 y0"]),
        Row(lambda a: a.H + 0, [(2, 3)], ["a0 y1", "a1 y0"]),
    ),
    *rows(
        "expand",
        Row(lambda a: a.expand(5, -1, 3), [(5, 4, 1)], ["a0 y0", "a1 y1", "y2"]),
        Row(lambda a: a.expand((2, 5, 4)), [(5, 1)], ["a0 y1", "y0", "y2"]),
        Row(lambda a, b: a.expand(2, 3, 4) * b, [(2, 3, 1), (2, 3, 4)], ["a0 b0 y0", "a1 b1 y1", "b2 y2"]),
    ),
    *rows(
        "expand_as",
        Row(lambda a, b: a.expand_as(b) * b, [(2, 3, 1), (2, 3, 4)], ["a0 b0 y0", "a1 b1 y1", "b2 y2"]),
    ),
    *rows(
        "broadcast_to",
        Row(lambda a: torch.broadcast_to(a, (2, 5, 4)), [(5, 1)], ["a0 y1", "y0", "y2"]),
        Row(lambda a: a.broadcast_to((5, 6)), [(5, 1)], ["a0 y0", "y1"]),
    ),
    *rows(
        "repeat",
        Row(lambda a: a.repeat(1, 2, 3), A, ["a0 y0", "a1 y1.1", "a2 y2.1"]),
        Row(lambda a: a.repeat(2, 1, 1, 1), A, ["a0 y1", "a1 y2", "a2 y3"]),
        Row(lambda a: a.repeat((1, 4)), [(3, 1)], ["a0 y0"]),
    ),
    *rows(
        "repeat_interleave",
        Row(lambda a: a.repeat_interleave(2, dim=1), A, ["a0 y0", "a1 y1.0", "a2 y2"]),
        Row(lambda a: torch.repeat_interleave(a, 3, -1), A, ["a0 y0", "a1 y1", "a2 y2.0"]),
        Row(lambda a: a.repeat_interleave(2), A, []),
    ),
    *rows(
        "chunk",
        Row(lambda a: a.chunk(2, -1), A, ["a0 y0 z0", "a1 y1 z1", "a2.1 y2 z2"]),
        Row(lambda a: torch.chunk(a, chunks=3, dim=1), A, ["a0 u0 y0 z0", "a2 u2 y2 z2"]),
        Row(lambda a: a.chunk(3, 1), [(2, 8)], ["a0 u0 y0 z0"]),  # 3 + 3 + 2, but of half as many 2 + 2
    ),
    *rows(
        "split",
        Row(lambda a: a.split(2, -1), A, ["a0 y0 z0", "a1 y1 z1", "a2.1 y2 z2"]),
        Row(lambda a: torch.split(a, 5, dim=1), [(2, 8)], ["a0 y0 z0", "a1/0 y1", "a1/1 z1"]),
        Row(lambda a: torch.split(a, [2, 6], 1), [(2, 8)], ["a0 y0 z0", "a1/0 y1", "a1/1 z1"]),
        Row(lambda a: a.split((4, 4), dim=-1), [(2, 8)], ["a0 y0 z0", "a1.1 y1 z1"]),
        Row(lambda a: a.split(1), [(2, 8)], ["a1 y1 z1"]),
    ),
    *rows(
        "split_with_sizes",
        Row(lambda a: a.split_with_sizes([2, 6], 1), [(2, 8)], ["a0 y0 z0", "a1/0 y1", "a1/1 z1"]),
        Row(lambda a: torch.split_with_sizes(a, (4, 4), dim=1), [(2, 8)], ["a0 y0 z0", "a1.1 y1 z1"]),
    ),
    *rows(
        "tensor_split",
        Row(lambda a: a.tensor_split(2, dim=1), [(2, 8)], ["a0 y0 z0", "a1.1 y1 z1"]),
        Row(lambda a: a.tensor_split(3, dim=1), [(2, 8)], ["a0 u0 y0 z0"]),
        Row(lambda a: torch.tensor_split(a, (4,), 1), [(2, 8)], ["a0 y0 z0"]),  # a place in the whole
    ),
    *rows(
        "unbind",
        Row(lambda a: a.unbind(1), A, ["a0 u0 y0 z0", "a2 u1 y1 z1"]),
        Row(lambda a: torch.unbind(a, dim=-3), A, ["a1 y0 z0", "a2 y1 z1"]),
        Row(lambda a: a.unbind(), A, ["a1 y0 z0", "a2 y1 z1"]),
    ),
    *rows(
        "select",
        Row(lambda a: a.select(1, 0), A, ["a0 y0", "a2 y1"]),
        Row(lambda a: torch.select(a, dim=-1, index=2), A, ["a0 y0", "a1 y1"]),
    ),
    *rows(
        "narrow",
        Row(lambda a: a.narrow(1, 0, 2), A, ["a0 y0", "a2 y2"]),
        Row(lambda a: torch.narrow(a, dim=-1, start=1, length=2), A, ["a0 y0", "a1 y1"]),
    ),
    *rows(
        "getitem",
        Row(lambda a: a[:, 0], A, ["a0 y0", "a2 y1"]),
        Row(lambda a: a[..., 0], A, ["a0 y0", "a1 y1"]),
        Row(lambda a: a[0, ..., 1], A, ["a1 y0"]),
        Row(lambda a: a[1], A, ["a1 y0", "a2 y1"]),
        Row(lambda a: a[:, None], A, ["a0 y0", "a1 y2", "a2 y3"]),
        Row(lambda a: a[..., None, :], A, ["a0 y0", "a1 y1", "a2 y3"]),
        Row(lambda a: a[:, 1:], A, ["a0 y0", "a2 y2"]),
        Row(lambda a: a[:, :3], A, ALL),
        Row(lambda a: a[:, 0:9], A, ALL),
        Row(lambda a: a[:, -3:], A, ["a0 y0", "a2 y2"]),
        Row(lambda a: a[:, ::2], A, ["a0 y0", "a2 y2"]),
        Row(lambda a: a[:, :, torch.tensor([1, 0])], A, []),
        Row(lambda a: a[torch.tensor([1, 0, 1])], A, ["a1 y1", "a2 y2"]),
        Row(lambda a: a[torch.tensor([[1, 0], [1, 1]])], A, ["a1 y2", "a2 y3"]),
        Row(lambda a: a.max(1)[0] + 0, A, []),  # has no rule
        Row(lambda a: a.chunk(2, -1)[-1], A, ["a0 y0", "a1 y1", "a2.1 y2"]),
    ),
    *rows(
        "cat",
        Row(lambda a, b: torch.cat([a, b], 1), [(2, 3, 4), (2, 5, 4)], ["a0 b0 y0", "a1 y1/0", "a2 b2 y2", "b1 y1/1"]),
        Row(lambda a, b: torch.cat((a, b), dim=-1), AB, ["a0 b0 y0", "a1 b1 y1", "a2 y2/0", "b2 y2/1"]),
        Row(lambda a, b: torch.cat((a, b, a), -1), AB, ["a0 b0 y0", "a1 b1 y1", "a2 y2/0 y2/2", "b2 y2/1"]),
        Row(lambda a, b: torch.cat((a, b)), AB, ["a0 y0/0", "a1 b1 y1", "a2 b2 y2", "b0 y0/1"]),
        Row(
            lambda a, b: torch.cat([a, b], 1).split([3, 5], 1),
            [(2, 3), (2, 5)],
            ["a0 b0 y0 z0", "a1 y1", "b1 z1"],
        ),
        Row(
            lambda a, b: torch.cat([a, b], 1).split([2, 6], 1),
            [(2, 5), (2, 3)],
            ["a0 b0 y0 z0", "a1/0 y1", "a1/1 z1/0", "b1 z1/1"],
        ),
        Row(lambda a, b: torch.cat([a, b], 1).view(2, 4, 2), [(2, 3), (2, 5)], ["a0 b0 y0"]),
    ),
    *rows("concat", Row(lambda a, b: torch.concat([a, b], -1), AB, ["a0 b0 y0", "a1 b1 y1", "a2 y2/0", "b2 y2/1"])),
    *rows(
        "concatenate",
        Row(lambda a, b: torch.concatenate([a, b], dim=-1), AB, ["a0 b0 y0", "a1 b1 y1", "a2 y2/0", "b2 y2/1"]),
    ),
    *rows(
        "stack",
        Row(lambda a, b: torch.stack([a, b], 1), AB, ["a0 b0 y0", "a1 b1 y2", "a2 b2 y3"]),
        Row(lambda a, b: torch.stack((a, b), dim=-1), AB, ["a0 b0 y0", "a1 b1 y1", "a2 b2 y2"]),
        Row(lambda a, b: torch.stack((a, b), dim=-1).flatten(2), AB, ["a0 b0 y0", "a1 b1 y1", "a2 b2 y2.0"]),
    ),
    *rows(
        "roll",
        Row(lambda a: a.roll(1, 1), A, ["a0 y0", "a2 y2"]),
        Row(lambda a: torch.roll(a, shifts=(1, 1), dims=(0, -1)), A, ["a1 y1"]),
        Row(lambda a: a.roll(1), A, []),
    ),
    *rows(
        "flip",
        Row(lambda a: a.flip(1), A, ["a0 y0", "a2 y2"]),
        Row(lambda a: torch.flip(a, dims=[0, -1]), A, ["a1 y1"]),
    ),
    *rows(
        "pad",
        Row(lambda a: F.pad(a, (1, 1)), A, ["a0 y0", "a1 y1"]),
        Row(lambda a: F.pad(a, (0, 0, 1, 0), value=2.0), A, ["a0 y0", "a2 y2"]),
        Row(lambda a: F.pad(a, (1, 1), mode="reflect"), A, ["a0 y0", "a1 y1"]),
    ),
]


def structure_of(row: Row) -> Structure:
    return Structure(row.function, [torch.randn(shape) for shape in row.shapes])


def together(links: list[str]) -> set[str]:
    return {" ".join(sorted(names.split())) for names in links}


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_what_goes_on(row: Row) -> None:
    structure = structure_of(row)
    called = {function_name(n) for n in structure.graph.nodes if n.op in ("call_function", "call_method")}
    assert row.name in called or row.name == "flatten"
    assert structure.said() == together(row.links)
    structure.check(least=row.least)


def test_every_rule_is_tested() -> None:
    assert {row.name for row in ROWS} == set(RULES)


def test_a_view_as_another_dtype_stops() -> None:
    structure = Structure(lambda a: a.view(torch.int16), [torch.randn(2, 4)])
    assert structure.said() == set()


def test_writing_into_a_tensor_stops_it_and_what_is_written() -> None:
    def write(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = a * 1
        result[:, :2] = b
        return result

    structure = Structure(write, [torch.randn(2, 4), torch.randn(2, 2)])
    assert structure.said() == set()
    assert "there is no rule for setitem" in structure.reasons()
