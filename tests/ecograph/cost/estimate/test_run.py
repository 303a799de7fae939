from __future__ import annotations

import json
from typing import Any

import pytest

from ecograph.cost.estimate import Estimate, plan_run, skipped_epochs
from ecograph.passes import Extrapolate, GradSamp


def test_by_hand(sparse: Estimate) -> None:
    run = plan_run(sparse, epochs=10, batches_per_epoch=7, accumulate=2, skipped=2, grid=100, price=0.5, currency="EUR")
    assert (run.steps, run.trained) == (4, 8)

    def epoch(phases: Any) -> float:
        seconds: float = 7 * (phases["forward"].seconds + phases["backward"].seconds) + 4 * phases["optimizer"].seconds
        return seconds

    assert run.before.seconds == pytest.approx(10 * epoch(sparse.before))
    assert run.after.seconds == pytest.approx(8 * epoch(sparse.after))
    assert run.dense_epochs == pytest.approx(run.after.seconds / epoch(sparse.before))
    assert run.footprint_after.kwh == pytest.approx(run.after.joules / 3.6e6)
    assert run.footprint_after.co2_grams == pytest.approx(100 * run.footprint_after.kwh)
    assert run.footprint_after.cost == pytest.approx(0.5 * run.footprint_after.kwh)
    data = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    assert data["skipped_epochs"] == 2 and data["after"]["footprint"]["currency"] == "EUR"
    assert data["source"] == sparse.source


def test_a_plain_run_saves_nothing(plain: Estimate) -> None:
    run = plan_run(plain, epochs=3, batches_per_epoch=5)
    assert run.before == run.after and run.dense_epochs == pytest.approx(3.0)
    assert run.footprint_after.grid_source == "world 2024" and run.footprint_after.cost is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs=0: give a whole number, 1 or more"),
        ({"epochs": 2.0}, "epochs=2.0"),
        ({"batches_per_epoch": 0}, "batches_per_epoch=0"),
        ({"accumulate": True}, "accumulate=True"),
        ({"skipped": 4}, "skipped=4 are more than epochs=3"),
        ({"price": -1.0}, "price=-1.0"),
        ({"currency": "EUR"}, "currency"),
    ],
)
def test_what_makes_no_sense(plain: Estimate, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plan_run(plain, **{"epochs": 3, "batches_per_epoch": 5, **options})


def test_which_epochs_passes_skip() -> None:
    assert skipped_epochs([Extrapolate(radius=0.1), GradSamp(every=4)], 9) == [3, 7]
    assert skipped_epochs([], 9) == []
    assert GradSamp(every=3).skipped_epochs(7) == [2, 5]
