"""The oracle of these tests: the full computation in which the units outside the slice are multiplied by zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from ecograph.analysis.layout import Layout, Segment
from ecograph.passes.sliceout.draws import BITS, SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.modules import REPLACEMENTS
from ecograph.passes.sliceout.widths import eligible_starts


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def new_slice(units: int, inner: int = 1, drop: float = 0.5, *, rate: Any = None, **options: Any) -> GroupSlice:
    rate = rate or SliceRate(drop, "constant")
    settings = {"align": 1, "starts": "any", **options}
    return GroupSlice(settings.pop("name", "g"), units, inner, rate, **settings)


def move(group: GroupSlice, start: int) -> GroupSlice:
    """Makes the group draw this start."""
    starts = eligible_starts(group.units, group.width, group.inner, group.starts, group.align)
    group.rate.draws[group._number] = -(-(starts.index(start) << BITS) // len(starts))
    assert group.start == start
    return group


def kept(layout: Layout, slices: Mapping[str, GroupSlice]) -> list[int]:
    """The elements in force of a dimension, unit by unit; plain Python on purpose."""
    elements, offset = [], 0
    for segment in layout:
        group = slices.get(segment.group)
        for block in range(segment.outer if group else 1):
            for unit in range(segment.units if group else 1):
                for element in range(segment.inner if group else segment.size):
                    if group is None or group.start <= unit < group.start + group.width:
                        inner = segment.inner if group else segment.size
                        units = segment.units if group else 1
                        elements.append(offset + (block * units + unit) * inner + element)
        offset += segment.size
    return elements


def whole(units: int, inner: int = 1, outer: int = 1, name: str = "g") -> Layout:
    return (Segment(units * inner * outer, name, outer, units, inner),)


def new_sliced(layer: nn.Module, **options: Any) -> nn.Module:
    """Turns a plain layer into a sliced one, in place, as the lowering does."""
    slices: Mapping[str, GroupSlice] = options.pop("slices")
    rate = next(iter(slices.values())).rate
    layer.sliced = SlicedLayer("layer", rate=rate, slices=slices, **options)
    layer.__class__ = REPLACEMENTS[type(layer)]
    return layer


@pytest.fixture
def make_slice() -> Callable[..., GroupSlice]:
    return new_slice


@pytest.fixture
def move_to() -> Callable[..., GroupSlice]:
    return move


@pytest.fixture
def elements() -> Callable[..., list[int]]:
    return kept


@pytest.fixture
def layout() -> Callable[..., Layout]:
    return whole


@pytest.fixture
def make_sliced() -> Callable[..., nn.Module]:
    return new_sliced
