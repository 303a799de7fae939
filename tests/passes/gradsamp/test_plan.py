from __future__ import annotations

from typing import Any

import pytest

from ecograph.passes.gradsamp.config import Options
from ecograph.passes.gradsamp.plan import is_skipped, skipped_epochs


@pytest.mark.parametrize(
    ("options", "epochs", "skipped"),
    [
        ({}, 12, [3, 7, 11]),
        ({"every": 3}, 9, [2, 5, 8]),
        ({"every": 5}, 4, []),
        ({"every": 3, "warmup": 1}, 9, [3, 6]),
        ({"every": 4, "warmup": 5}, 14, [8, 12]),
        ({"every": 4, "cooldown": 1}, 12, [3, 7]),
        ({"every": 4, "cooldown": 5}, 12, [3]),
        ({"every": 4, "warmup": 5, "cooldown": 3}, 12, [8]),
        ({"every": 4, "warmup": 5, "cooldown": 4}, 12, []),
        ({"every": 4, "cooldown": 99}, 12, []),
        ({"probability": 1.0}, 12, [2, 5, 8, 11]),
        ({"probability": 1.0, "warmup": 1}, 6, [2, 5]),
        ({"probability": 1.0, "warmup": 4}, 12, [4, 7, 10]),
        ({"probability": 1.0, "warmup": 4, "cooldown": 2}, 12, [4, 7]),
        ({"probability": 1.0}, 2, []),
    ],
)
def test_which_epochs_are_skipped(options: dict[str, Any], epochs: int, skipped: list[int]) -> None:
    assert skipped_epochs(Options(**options), epochs) == skipped


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_at_random_both_epochs_before_a_skip_are_trained(probability: float) -> None:
    plans = [skipped_epochs(Options(probability=probability, seed=seed), 120) for seed in range(40)]
    assert all(later - earlier >= 3 for plan in plans for earlier, later in zip(plan, plan[1:], strict=False))
    assert all(plan[0] >= 2 for plan in plans)
    share = sum(map(len, plans)) / (40 * 120)
    assert share == pytest.approx(probability / (1 + 2 * probability), abs=0.02)
    assert len(set(map(tuple, plans))) == 40


def test_the_plan_is_a_function_of_the_epoch_alone() -> None:
    options = Options(probability=0.4, seed=3)
    plan = skipped_epochs(options, 60)
    assert [epoch for epoch in reversed(range(60)) if is_skipped(options, epoch)] == plan[::-1]
    assert skipped_epochs(options, 30) == [epoch for epoch in plan if epoch < 30]
    assert skipped_epochs(Options(probability=0.4, seed=3, cooldown=10), 60) == [e for e in plan if e < 50]


def test_the_plan_at_random_stays_the_same_from_version_to_version() -> None:
    assert skipped_epochs(Options(probability=0.5), 24) == [2, 5, 9, 12, 16, 19, 23]  # as first released
