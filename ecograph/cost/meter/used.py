"""What a window used: time and energy, part by part, with the source of every figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ecograph.cost.energy import Energy

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Part:
    """The energy of one domain.

    Attributes:
        domain: that a meter measured, such as "nvml:0" or "rapl:package-0"; or a device that was modelled or not
            measured, such as "cpu" or "cuda:0".
        joules: None where nothing is known; never 0.
        source: ``"measured:..."``, ``"modelled:..."`` or ``"none"``.
        why: it was not measured; ``""`` where it was.
        needed: the total is unknown without it.
    """

    domain: str
    joules: float | None
    source: str
    why: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Used:
    """Time and energy of a window. Prints as "312 J in 24.1 s, measured:rapl".

    Attributes:
        seconds: wall time.
        cpu_seconds: CPU time of this process and of its children that ended in the window, over all threads.
        parts: the energy of each domain.
        label: that the window was given.
    """

    seconds: float
    cpu_seconds: float
    parts: tuple[Part, ...] = field(default=())
    label: str = ""

    @property
    def energy(self) -> Energy:
        """Of all parts together; unknown where a device that was in use has no figure."""
        return total(self.parts)

    @property
    def joules(self) -> float | None:
        """Of all parts together; None where a device that was in use has no figure."""
        return self.energy.joules

    @property
    def source(self) -> str:
        """How the joules are known: ``"measured:nvml + modelled:7 W per busy core"``; ``"none"`` for none."""
        return self.energy.source

    @property
    def why(self) -> str:
        """Why something was not measured; ``""`` where everything was."""
        return "; ".join(dict.fromkeys(part.why for part in self.parts if part.why))

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return {
            "label": self.label,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "joules": self.joules,
            "energy_source": self.source,
            "why": self.why,
            "parts": [asdict(part) for part in self.parts],
        }

    def __str__(self) -> str:
        """Returns one line."""
        start = f"{self.label}: " if self.label else ""
        if self.joules is None:
            return f"{start}unknown energy in {digits(self.seconds)} s" + (f" ({self.why})" if self.why else "")
        return f"{start}{joules_text(self.joules)} in {digits(self.seconds)} s, {self.source}"

    def __rich__(self) -> Group:
        """Renders the line, and the parts where there are several or something is missing."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        lines: list[Text | Table] = [Text(str(self))]
        if len(self.parts) > 1 or self.why:
            table = Table("part", "energy", "source", "not measured because", box=box.SIMPLE_HEAD)
            for part in self.parts:
                amount = "unknown" if part.joules is None else joules_text(part.joules)
                table.add_row(*(Text(each) for each in (part.domain, amount, part.source, part.why)))
            lines.append(table)
        return Group(*lines)


def total(parts: Iterable[Part]) -> Energy:
    """Returns the sum of parts and all their sources; unknown where one that is needed has no figure."""
    several = list(parts)
    known = [part for part in several if part.joules is not None]
    if not known or any(part.needed and part.joules is None for part in several):
        return Energy(None, "none")
    # A part may itself be a sum of several.
    sources = dict.fromkeys(source for part in known for source in part.source.split(" + "))
    return Energy(sum(part.joules or 0.0 for part in known), " + ".join(sources))


def kinds(source: str) -> list[str]:
    """Returns the first words of a source: ["measured", "modelled"] of "measured:nvml + modelled:7 W per busy core"."""
    found = [each.partition(":")[0] for each in source.split(" + ")]
    return sorted({each for each in found if each in ("measured", "modelled")})


def joules_text(joules: float) -> str:
    """Returns joules to about three digits with a unit: "0.52 J", "3120 J", "12.5 kJ", "1.25 MJ"."""
    for unit, size, least in (("MJ", 1e6, 1e6), ("kJ", 1e3, 1e4)):
        if joules >= least:
            return f"{digits(joules / size)} {unit}"
    return f"{digits(joules)} J"


def digits(number: float) -> str:
    """Returns a number to three digits, or all before the point: "0.0123", "24.1", "86400"."""
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"
