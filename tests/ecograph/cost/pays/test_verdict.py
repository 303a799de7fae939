from __future__ import annotations

from dataclasses import replace

import pytest

from ecograph.cost.devices import Roofline, find_device
from ecograph.cost.devices.device import Figure
from ecograph.cost.pays import Verdict, compare
from ecograph.cost.pays.verdict import MARGIN
from ecograph.cost.steps import Op


@pytest.mark.parametrize(
    ("saves", "costs", "reason"),
    [
        (1e-3, 0.0, ""),
        (1.3e-3, 1e-3, ""),
        (0.4e-3, 0.6e-3, "does not pay: saves 0.4 ms, costs 0.6 ms"),
        (1.1e-3, 1e-3, "may not pay: saves 1.1 ms, costs 1 ms"),
        (6.1e-7, 3.2e-4, "does not pay: saves 0.61 us, costs 0.32 ms"),
        (0.0, 9.97e-5, "does not pay: saves nothing, costs 0.1 ms"),
        (0.0, 0.0, "does not pay: saves nothing, costs nothing"),
        (0.0, 2.0, "does not pay: saves nothing, costs 2000 ms"),
    ],
)
def test_in_words(saves: float, costs: float, reason: str) -> None:
    verdict = Verdict(saves, costs)
    assert verdict.why_not == reason and verdict.pays is (reason == "")


def test_margin() -> None:
    assert Verdict(MARGIN * 1.001, 1.0).pays and not Verdict(MARGIN, 1.0).pays
    assert Verdict(1.0, 2.0) + Verdict(10.0, 20.0) == Verdict(11.0, 22.0)


def product(flops: int) -> Op:
    return Op("aten.mm", "matmul", "forward", flops=flops, sizes=(1, 1, 1, 1))


def moving(count: int) -> Op:
    return Op("aten.mul", "pointwise", "forward", read=count, fresh=False)


#: 1 GFLOP/s and 1 GB/s, and nothing beside.
PLAIN = replace(
    find_device("generic-cpu"),
    flops={"float32": Figure(1e9, "")},
    bandwidth=Figure(1e9, ""),
    reached=Figure(1.0, ""),
    call=Figure(0.0, ""),
    overhead={},
    swept={},
)


@pytest.mark.parametrize(
    ("before", "after", "saves", "costs"),
    [
        ([product(10)], [product(4), moving(2)], 6e-9, 2e-9),
        ([product(10), moving(8)], [product(4), moving(2)], 12e-9, 0.0),
        ([product(4)], [product(10), moving(2)], 0.0, 8e-9),
        ([moving(8)], [product(10)], 8e-9, 10e-9),
        ([], [], 0.0, 0.0),
    ],
)
def test_products_and_all_else_may_each_grow_or_shrink(
    before: list[Op], after: list[Op], saves: float, costs: float
) -> None:
    found = compare(before, after, Roofline(PLAIN))
    assert (found.saves, found.costs) == pytest.approx((saves, costs), abs=1e-18)
