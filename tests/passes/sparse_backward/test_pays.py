from __future__ import annotations

import pytest

from ecograph.passes.sparse_backward.pays import Workload, why_dense


def test_workloads_from_shapes() -> None:
    assert Workload.of_linear((2, 3, 8), 5) == Workload(2 * 6 * 8 * 5, 48, 40)
    conv = Workload.of_conv((2, 4, 9, 9), (8, 2, 3, 3), (2, 8, 7, 7), transposed=False)
    assert conv == Workload(2 * 2 * 8 * 49 * 2 * 9, 2 * 8 * 49, 8 * 2 * 9)
    transposed = Workload.of_conv((2, 4, 5, 5), (4, 3, 2, 2), (2, 6, 10, 10), transposed=True)
    assert transposed == Workload(2 * 2 * 4 * 25 * 3 * 4, 2 * 6 * 100, 4 * 3 * 4)


LARGE = Workload.of_conv((32, 128, 16, 16), (128, 128, 3, 3), (32, 128, 16, 16), transposed=False)
TINY = Workload.of_linear((4, 16), 16)


@pytest.mark.parametrize(
    ("workload", "drop", "grads", "pays"),
    [
        (LARGE, 0.8, (True, True), True),
        (LARGE, 0.5, (True, True), True),
        (LARGE, 0.8, (True, False), True),
        (LARGE, 0.001, (True, True), False),
        (LARGE, 0.8, (False, False), False),
        (TINY, 0.8, (True, True), False),
        (TINY, 0.99, (True, True), False),
    ],
)
def test_large_layers_pay_and_tiny_ones_do_not(
    workload: Workload, drop: float, grads: tuple[bool, bool], pays: bool
) -> None:
    reason = why_dense(workload, drop, grads)
    assert (reason == "") is pays
    assert pays or reason.startswith("does not pay: would save about")


def test_paying_is_monotonic_in_drop_and_size() -> None:
    verdicts = [why_dense(LARGE, drop / 100, (True, True)) == "" for drop in range(100)]
    assert verdicts == sorted(verdicts)
    sizes = [Workload.of_linear((n, 256), 256) for n in (1, 10, 100, 1000, 10000, 100000)]
    verdicts = [why_dense(size, 0.8, (True, True)) == "" for size in sizes]
    assert verdicts == sorted(verdicts)
    assert verdicts[0] is False and verdicts[-1] is True
