from __future__ import annotations

import math

import pytest
import torch

from ecograph.passes.sliceout.widths import eligible_starts, keep_probability, kept_units, start_grid

SHAPES = [(u, i) for u in (*range(1, 40), 48, 63, 64, 96, 128, 192, 257) for i in (1, 3, 4, 8, 64)]
RATES = [0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.75, 0.8, 0.9, 0.95]


@pytest.mark.parametrize(
    ("units", "inner", "rate", "align", "expected"),
    [
        (64, 1, 0.5, 8, 32), (64, 1, 0.0, 8, 64), (64, 1, 0.3, 8, 48), (60, 1, 0.0, 8, 60),
        (6, 64, 0.5, 8, 3), (6, 64, 0.9, 8, 1), (6, 64, 0.95, 8, 0), (12, 4, 0.5, 8, 6), (7, 4, 0.5, 8, 4),
        (4, 1, 0.5, 8, 0), (12, 1, 0.5, 8, 8), (15, 1, 0.05, 8, 15), (16, 1, 0.9, 8, 8), (10, 1, 0.9, 1, 1),
        (100, 3, 0.5, 8, 48), (2048, 1, 0.75, 8, 512), (3, 3, 0.5, 1, 2),
    ],
)  # fmt: skip
def test_kept_units(units: int, inner: int, rate: float, align: int, expected: int) -> None:
    assert kept_units(units, inner, rate, align) == expected


@pytest.mark.parametrize("align", [1, 8, 16])
def test_kept_units_are_the_nearest_aligned_number(align: int) -> None:
    for units, inner in SHAPES:
        for rate in RATES:
            width = kept_units(units, inner, rate, align)
            wanted = (1 - rate) * units
            aligned = [w for w in range(1, units) if w * inner % align == 0]
            if width == 0:
                assert (
                    wanted < 0.5
                    or units * inner < align
                    or not [w for w in (*aligned, units) if w * inner % align == 0]
                )
                continue
            assert 1 <= width <= units
            assert width == units or width * inner % align == 0
            for other in aligned:
                assert abs(width - wanted) <= abs(other - wanted) + 1e-6


@pytest.mark.parametrize("starts", ["grid", "blocks", "any"])
@pytest.mark.parametrize("align", [1, 8])
def test_starts_ascend_from_first_to_last_and_cover_every_unit(starts: str, align: int) -> None:
    for units, inner in SHAPES:
        for rate in RATES:
            width = kept_units(units, inner, rate, align)
            if width in (0, units):
                continue
            found = eligible_starts(units, width, inner, starts, align)
            assert found[0] == 0
            assert found[-1] == units - width
            assert list(found) == sorted(set(found))
            covered = {unit for start in found for unit in range(start, start + width)}
            assert covered == set(range(units)), (units, width, found)
            probability = keep_probability(units, width, found)
            assert probability.shape == (units,)
            assert probability.dtype == torch.float64
            expected = [sum(s <= u < s + width for s in found) / len(found) for u in range(units)]
            assert probability.tolist() == pytest.approx(expected)
            if starts == "grid":
                assert all(start * inner % align == 0 for start in found[:-1])
            grid = start_grid(units, width, inner, starts, align)
            assert grid.tensor(torch.arange(grid.choices)).tolist() == list(found)


def test_each_kind_of_start() -> None:
    assert eligible_starts(10, 4, 1, "any", 8) == tuple(range(7))
    assert eligible_starts(10, 4, 1, "blocks", 8) == (0, 4, 6)
    assert eligible_starts(12, 4, 1, "blocks", 8) == (0, 4, 8)
    assert eligible_starts(64, 32, 1, "grid", 8) == (0, 16, 32)
    assert eligible_starts(64, 16, 1, "grid", 8) == (0, 8, 16, 24, 32, 40, 48)
    assert eligible_starts(60, 24, 1, "grid", 8) == (0, 8, 24, 36)
    assert eligible_starts(6, 3, 64, "grid", 8) == (0, 1, 3)
    assert eligible_starts(8, 8, 1, "grid", 8) == (0,)


def test_slices_of_the_grid_overlap_by_about_half() -> None:
    for units in (256, 1000, 2048):
        for rate in (0.25, 0.5, 0.75, 0.9):
            width = kept_units(units, 1, rate, 8)
            found = eligible_starts(units, width, 1, "grid", 8)
            gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
            assert max(gaps) <= 0.75 * width + 8
            assert len(found) >= math.floor(2 * (units - width) / width)


def test_probability_at_the_edges_of_every_start() -> None:
    """The figures of the paper's setting that make a grid worth having."""
    probability = keep_probability(64, 48, eligible_starts(64, 48, 1, "any", 1))
    assert probability.min() == pytest.approx(1 / 17)
    assert probability.max() == 1
