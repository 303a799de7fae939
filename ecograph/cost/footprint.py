"""What joules come to: kilowatt-hours, grams of CO2, money. Pure arithmetic: what is put in decides what comes out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from ecograph.cost.meter.used import digits

#: Grams of CO2 per kWh of electricity, the world's average of 2024: 14.6 Gt for 30 830 TWh, of which 12 609 TWh were
#: 40.9 %. With all gases and the whole life of power plants, as CO2 equivalents. Ember, Global Electricity Review 2025,
#: https://ember-energy.org/latest-insights/global-electricity-review-2025/. Single grids lie between 30 and 800.
WORLD_GRID = 473.0

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Footprint:
    """What an amount of energy comes to. Prints as "0.25 kWh, 118 g CO2 (at 473 g/kWh, world 2024)".

    Attributes:
        joules: of what was measured or modelled. Cooling and power supplies are in it only if they are in that.
        grid: grams of CO2 per kWh.
        grid_source: where that number is from.
        price: of one kWh; None where nobody gave one.
        currency: of the price.
    """

    joules: float
    grid: float
    grid_source: str
    price: float | None = None
    currency: str = ""

    @property
    def kwh(self) -> float:
        """Kilowatt-hours."""
        return self.joules / JOULES_PER_KWH

    @property
    def co2_grams(self) -> float:
        """Grams of CO2."""
        return self.kwh * self.grid

    @property
    def cost(self) -> float | None:
        """Money; None without a price."""
        return None if self.price is None else self.kwh * self.price

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return {**asdict(self), "kwh": self.kwh, "co2_grams": self.co2_grams, "cost": self.cost}

    def __str__(self) -> str:
        """Returns one line."""
        grams = self.co2_grams
        co2 = f"{digits(grams / 1000)} kg" if grams >= 999.5 else f"{digits(grams)} g"
        source = f", {self.grid_source}" if self.grid_source else ""
        text = f"{digits(self.kwh)} kWh, {co2} CO2 (at {self.grid:g} g/kWh{source})"
        if self.cost is None:
            return text
        unit = f" {self.currency}" if self.currency else ""
        return f"{text}, {digits(self.cost)}{unit} (at {self.price:g}{unit} per kWh)"


def footprint(joules: float, *, grid: float | None = None, price: float | None = None, currency: str = "") -> Footprint:
    """Returns what an amount of energy comes to.

    Args:
        joules: of energy.
        grid: grams of CO2 per kWh where the machine stands; None for the average of the world.
        price: of one kWh; None for no price.
        currency: of the price, for the text.

    Raises:
        ValueError: for a number that is negative or not finite, and a currency without a price.
    """
    for name, value in (("joules", joules), ("grid", grid), ("price", price)):
        if value is not None and not (isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value} must be a number of 0 or more")
    if currency and price is None:
        raise ValueError(f"currency={currency!r} needs the price of a kWh: price=0.30")
    if grid is None:
        return Footprint(joules, WORLD_GRID, "world 2024", price, currency)
    return Footprint(joules, grid, "", price, currency)
