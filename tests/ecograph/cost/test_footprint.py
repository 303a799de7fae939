import json

import pytest

from ecograph.cost.footprint import WORLD_GRID, footprint


def test_a_kilowatt_hour() -> None:
    found = footprint(3.6e6)
    assert (found.kwh, found.co2_grams, found.cost) == (1.0, WORLD_GRID, None)
    assert str(found) == "1 kWh, 473 g CO2 (at 473 g/kWh, world 2024)"


def test_with_a_grid_and_a_price() -> None:
    found = footprint(36e6, grid=250, price=0.3, currency="EUR")
    assert str(found) == "10 kWh, 2.5 kg CO2 (at 250 g/kWh), 3 EUR (at 0.3 EUR per kWh)"
    assert json.loads(json.dumps(found.to_dict()))["cost"] == pytest.approx(3.0)
    assert str(footprint(36e6, grid=0, price=0.3)).endswith("0 g CO2 (at 0 g/kWh), 3 (at 0.3 per kWh)")


@pytest.mark.parametrize("options", [{"grid": -1}, {"price": float("nan")}, {"currency": "EUR"}, {"joules": -1.0}])
def test_what_makes_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        footprint(**{"joules": 1.0, **options})  # type: ignore[arg-type]


def test_the_average_of_the_world_is_as_the_comment_derives_it() -> None:
    assert pytest.approx(14.6e15 / (12609e9 / 0.409), rel=0.002) == WORLD_GRID
