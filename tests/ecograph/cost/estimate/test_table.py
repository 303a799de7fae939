from __future__ import annotations

import io

import pytest
from rich.console import Console

from ecograph.cost.estimate import Estimate, plan_run
from ecograph.cost.estimate.run_table import long
from ecograph.cost.estimate.table import COUNT, ENERGY, TIME, bar, change, duration, energy


def printed(what: object, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(what)
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_it_fits(sparse: Estimate, plain: Estimate, width: int) -> None:
    for each in (sparse, plain):
        text = printed(each, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for word in ("forward", "backward", "optimizer", "step", "layer", "memory: ", "modelled,"):
            assert word in text
    assert "sparse_backward" in printed(sparse, width) and "sparse_backward" not in printed(plain, width)
    assert ("calls" in text, "Conv2d" in text) == (width == 200, width == 200)


@pytest.mark.parametrize("width", [80, 200])
def test_a_run_fits(sparse: Estimate, width: int) -> None:
    text = printed(plan_run(sparse, epochs=100, batches_per_epoch=10**6, price=0.3, currency="EUR"), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "EUR" in text and "kWh" in text and "CO2" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (duration(1.5), "1.5 s"),
        (duration(0.00142), "1.42 ms"),
        (duration(-4e-6), "-4 µs"),
        (duration(0.0), "0 µs"),
        (duration(12345.0), "12345 s"),
        (duration(0.9999), "1 s"),
        (energy(1234.0), "1.23 kJ"),
        (change(0.0211, 0.00617, TIME), "21.1 → 6.17 ms"),
        (change(1.001, 1.002, ENERGY), "1 J"),
        (change(14, 52, COUNT), "14 → 52"),
        (change(2000, 2000, COUNT), "2000"),
        (long(59.0), "59 s"),
        (long(59.9), "59.9 s"),
        (long(185.2), "3 min 5 s"),
        (long(7800), "2 h 10 min"),
        (long(86400 * 3 + 3600 * 4), "3 d 4 h"),
    ],
)
def test_figures_for_people(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("before", "after", "length"), [(1.0, 0.5, 16), (0.5, 0.0, 8), (1e-9, 1e-9, 1), (1.0, 2.0, 16)]
)
def test_bars(before: float, after: float, length: int) -> None:
    found = bar(before, after, 1.0).plain
    assert len(found) == length
    assert found.count("█") == min(length, round(length * after / before))
    assert not bar(before, after, 0.0).plain
