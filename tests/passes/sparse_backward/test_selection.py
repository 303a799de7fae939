from __future__ import annotations

import math

import pytest
import torch

from ecograph.passes.sparse_backward import selection
from ecograph.passes.sparse_backward.selection import (
    channel_scores,
    channel_scores_planar,
    dropped_nan,
    fill_value,
    select_channels,
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("piece_bytes", [1 << 20, 64], ids=["whole", "in pieces"])
def test_scores_are_sums_of_absolute_values(
    dtype: torch.dtype, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_PIECE_BYTES", piece_bytes)
    grad = torch.randn(5, 7, 3, 4).to(dtype)
    exact = [grad[:, c].double().abs().sum().item() for c in range(7)]
    rows = grad.movedim(1, -1).reshape(-1, 7)
    for scores in (channel_scores(rows), channel_scores_planar(grad)):
        assert scores.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(
            scores.double(), torch.tensor(exact, dtype=torch.float64), rtol=1e-5, atol=0
        )


def test_float16_scores_do_not_overflow() -> None:
    grad = torch.full((4096, 2), 60000.0, dtype=torch.float16)
    assert channel_scores(grad).tolist() == [4096 * 60000.0] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_scores_of_channels_that_are_not_finite(bad: float) -> None:
    grad = torch.ones(4, 3, 2)
    grad[1, 2, 0] = bad
    for scores in (channel_scores(grad.movedim(1, -1).reshape(-1, 3)), channel_scores_planar(grad)):
        assert scores.isfinite().tolist() == [True, True, False]
        assert torch.equal(fill_value(scores, torch.bfloat16)[:2], torch.zeros(2, dtype=torch.bfloat16))
        assert fill_value(scores, torch.float32)[2].isnan()
        assert select_channels(scores, 1).tolist() == [2]


@pytest.mark.parametrize(
    ("scores", "keep", "groups", "expected"),
    [
        ([3.0, 1.0, 2.0], 1, 1, [0]),
        ([3.0, 1.0, 2.0], 2, 1, [0, 2]),
        ([1.0, 2.0, 3.0], 3, 1, [0, 1, 2]),
        ([9.0, 8.0, 1.0, 2.0], 1, 2, [0, 3]),
        ([1.0, 2.0, 9.0, 8.0, 7.0, 0.0], 2, 2, [1, 2, 3, 4]),
        ([5.0, 1.0, 2.0, 6.0, 4.0, 3.0], 1, 3, [0, 3, 4]),
    ],
)
def test_the_strongest_channels_of_each_group_in_order(
    scores: list[float], keep: int, groups: int, expected: list[int]
) -> None:
    assert select_channels(torch.tensor(scores), keep, groups).tolist() == expected


def test_random_channels_are_uniform_and_ascending() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([1e6, 1.0, 1.0, 1.0, 1.0, 1.0])
    draws = torch.stack([select_channels(scores, 1, 2, random=True) for _ in range(600)])
    assert (draws.diff(dim=1) > 0).all()
    assert draws[:, 0].max() < 3 <= draws[:, 1].min()
    counts = torch.bincount(draws.flatten(), minlength=6).double()
    assert ((counts - 200).abs() < 5 * math.sqrt(600 * 1 / 3 * 2 / 3)).all()


@pytest.mark.parametrize(("kept", "poisoned"), [([0, 1], True), ([1, 3], False), ([3], False), ([0], True)])
def test_only_dropped_channels_poison(kept: list[int], poisoned: bool) -> None:
    fill = torch.tensor([0.0, 0.0, 0.0, math.nan])
    value = dropped_nan(fill, torch.tensor(kept))
    assert value.isnan().item() is poisoned
    assert poisoned or value.item() == 0
    assert fill.isnan().sum() == 1, "unchanged"
