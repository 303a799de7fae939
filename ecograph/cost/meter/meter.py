"""What a meter is: something that says how much energy each part of the machine took since a window began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Reading:
    """The energy that one domain took in a window.

    Attributes:
        domain: such as "nvml:0", "rapl:package-0" or "rapl:dram-0".
        device: that it belongs to: "cpu", "cuda:0", "mps", or the UUID of a GPU.
        source: who measured it: "nvml", "rapl".
        joules: never 0; None where the meter could not tell.
        why: there is no figure.
        optional: the energy of the device is a figure without this domain.
    """

    domain: str
    device: str
    source: str
    joules: float | None
    why: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Missing:
    """Why a meter has nothing to say of a device.

    Attributes:
        why: in words, with what to do about it.
        elsewhere: another process reads the meter and counts this energy: it must not be counted here again.
    """

    why: str
    elsewhere: bool = False


@runtime_checkable
class Meter(Protocol):
    """Whatever can measure energy. Windows may be nested and overlap."""

    @property
    def domains(self) -> tuple[str, ...]:
        """What it measures; empty where there is nothing to read."""

    def missing(self, device: str) -> Missing:
        """Returns why a device, "cpu", "cuda:0" or "mps", is not among that."""

    def start(self) -> Any:
        """Begins a window. What is returned stands for it; the window ends when nobody holds that any more."""

    def since(self, start: Any) -> Sequence[Reading]:
        """Returns what was read since a window began, for each domain. It may be asked again."""


class NoMeter:
    """The meter of a machine without one.

    Args:
        why: there is none, and what to do about it.
    """

    domains: tuple[str, ...] = ()

    def __init__(self, why: str) -> None:
        self._missing = Missing(why)

    def missing(self, device: str) -> Missing:
        """Returns why there is no meter; the same for every device."""
        return self._missing

    def start(self) -> None:
        """Begins nothing."""

    def since(self, start: None) -> list[Reading]:
        """Returns no reading."""
        return []
