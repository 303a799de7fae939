"""The figure where no meter was read: a model, and labelled as one."""

from __future__ import annotations

from ecograph.cost.energy import model_cpu_energy
from ecograph.cost.meter.used import Part


def model_cpu(cpu_seconds: float, why: str) -> Part:
    """Returns the modelled energy of the CPU.

    Args:
        cpu_seconds: of the window.
        why: it was not measured.
    """
    energy = model_cpu_energy(cpu_seconds)
    return Part("cpu", energy.joules, energy.source, why)
