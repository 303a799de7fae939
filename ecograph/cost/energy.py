"""Energy where there is no meter: a model so plain that nobody can mistake it for a measurement."""

from __future__ import annotations

from dataclasses import dataclass

#: Watts of one busy core, everything on the chip included. Thermal design power per core, as makers state it:
#: EPYC 9654 360 W / 96 = 3.8, Xeon 8480+ 350 W / 56 = 6.3, Ryzen 7 7700 65 W / 8 = 8.1, Ryzen 9 7950X
#: 170 W / 16 = 10.6; their geometric mean is 6.7. So an absolute figure may be wrong by a factor of two;
#: memory, fans and power supply are not in it; and two runs on one machine compare exactly as their CPU
#: seconds do.
WATTS_PER_CORE = 7.0


@dataclass(frozen=True)
class Energy:
    """An amount of energy and how it is known.

    Attributes:
        joules: None where nothing is known; never 0 for want of a meter.
        source: ``"modelled:..."``, ``"measured:..."`` or ``"none"``.
    """

    joules: float | None
    source: str


def model_cpu_energy(cpu_seconds: float | None, *, watts_per_core: float = WATTS_PER_CORE) -> Energy:
    """Models the energy of CPU work: a constant power for every second that a core was busy.

    Args:
        cpu_seconds: CPU time of the process, summed over its threads; None or 0 where it was not measured.
        watts_per_core: power of one busy core, in watts.
    """
    if not cpu_seconds:
        return Energy(None, "none")
    return Energy(watts_per_core * cpu_seconds, f"modelled:{watts_per_core:g} W per busy core")
