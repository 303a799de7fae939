from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.widths import eligible_starts, keep_probability


def test_active_in_training_at_a_rate_that_drops(make_slice: Any) -> None:
    rate, anchor = SliceRate(0.5, "constant"), nn.Linear(2, 2)
    group = make_slice(64, rate=rate, anchor=anchor)
    assert group.active
    with torch.no_grad():
        assert group.active, "as under checkpointing"
    anchor.eval()
    assert not group.active
    anchor.train()
    rate.set(0.0)
    assert not group.active
    assert (group.width, group.scale()) == (64, 1.0)
    rate.set(0.25)
    assert (group.active, group.width) == (True, 48)
    assert not make_slice(4, align=8).active, "narrower than a step of the alignment"
    assert make_slice(64).active, "no anchor: always in training"


def test_every_start_is_drawn_and_none_else(make_slice: Any) -> None:
    for starts in ("grid", "blocks", "any"):
        group = make_slice(64, starts=starts, align=8)
        eligible = eligible_starts(64, 32, 1, starts, 8)
        assert group.choices == len(eligible)
        seen = set()
        for _ in range(1000):
            group.rate.tick()
            seen.add(group.start)
        assert seen == set(eligible)


@pytest.mark.parametrize("normalization", ["flow", "probability"])
def test_slices_of_one_step_at_another_rate(make_slice: Any, normalization: str) -> None:
    group = make_slice(32, normalization=normalization, max_scale=100.0)
    for rate in (0.5, 0.25, 0.75, 0.5):
        group.rate.set(rate)
        width = int(32 * (1 - rate))
        assert group.width == width
        scale = group.scale()
        if normalization == "flow":
            assert scale == 32 / width
        else:
            probability = keep_probability(32, width, eligible_starts(32, width, 1, "any", 1))
            expected = 1 / probability[group.start : group.start + width]
            torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0)
            assert scale.dtype == torch.float32


def test_scales_by_probability_are_clipped(make_slice: Any, move_to: Any) -> None:
    group = move_to(make_slice(64, drop=0.25, normalization="probability", max_scale=4.0), 0)
    assert group.scale().max() == 4.0
    assert group.scale().min() == 1.0


@pytest.mark.parametrize(("inner", "outer"), [(1, 1), (4, 1), (1, 3), (5, 2)])
def test_index_is_the_elements(make_slice: Any, elements: Any, layout: Any, inner: int, outer: int) -> None:
    group = make_slice(12)
    for _ in range(10):
        group.rate.tick()
        expected = elements(layout(12, inner, outer), {"g": group})
        assert group.index(inner, outer).tolist() == expected
        assert group.index(inner, outer).dtype == torch.int64


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("starts", ["grid", "any"])
def test_compiled_index_and_scale_are_the_eager_ones(make_slice: Any, starts: str) -> None:
    torch._dynamo.reset()
    group = make_slice(48, normalization="probability", starts=starts, max_scale=3.0)
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def compiled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return group.index(2, 2) + 0 * x, group.scale() + 0 * x

    for _ in range(20):
        group.rate.tick()
        index, scale = compiled(torch.zeros(()))
        assert torch.equal(index.long(), group.index(2, 2))
        torch.testing.assert_close(scale, group.scale())
    assert counter.frame_count == 1


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(make_slice: Any, how: str) -> None:
    anchor = nn.Linear(2, 2)
    anchor.slice = make_slice(32, anchor=anchor, normalization="probability")
    anchor.slice.scale()
    twin = copy.deepcopy(anchor) if how == "deepcopy" else pickle.loads(pickle.dumps(anchor))
    assert twin.slice.anchor is twin
    assert isinstance(twin.slice, GroupSlice)
    assert twin.slice.start == anchor.slice.start
    anchor.eval()
    assert twin.slice.active
    assert list(twin.state_dict()) == ["weight", "bias"]


def test_repr_says_how_much_is_kept(make_slice: Any) -> None:
    assert repr(make_slice(64, name="blocks.0.fc1")) == "GroupSlice('blocks.0.fc1', 32 of 64 units)"
