"""A stretch of time, its energy measured where a meter can be read and modelled where none can."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ecograph.cost.energy import Energy
from ecograph.cost.meter.devices import Devices, check_devices, cpu_seconds, in_use, names_of, wait_for
from ecograph.cost.meter.meter import Meter, Reading
from ecograph.cost.meter.modelled import model_cpu
from ecograph.cost.meter.used import Part, Used
from ecograph.cost.meter.zeus_meter import find_meter


class Window:
    """Runs from when it is made until `finish`. Its figures may be asked for at any time: they are those so far.

    Args:
        devices: accelerators whose energy counts besides the CPU's; None for those on which this process has tensors.
        meter: None for the best of this machine.
        label: for the text.

    Raises:
        ValueError: for devices that are none, and for a meter that is none.
    """

    def __init__(self, *, devices: Devices = None, meter: Meter | None = None, label: str = "") -> None:
        if meter is not None and not isinstance(meter, Meter):
            raise ValueError(
                f"meter={meter!r} is no meter, which has domains, missing(device), start() and since(start): leave it "
                "out for the best of this machine"
            )
        self._devices = check_devices(devices)
        self._label = label
        self._meter = meter or find_meter()
        self._used: Used | None = None
        wait_for(self._accelerators())
        self._cpu = cpu_seconds()
        self._started = time.perf_counter()
        self._start = self._meter.start()

    def used(self) -> Used:
        """Returns what was used so far; after the end, what was used in all."""
        if self._used is not None:
            return self._used
        accelerators = self._accelerators()
        wait_for(accelerators)
        readings = self._meter.since(self._start)
        seconds, cpu = time.perf_counter() - self._started, cpu_seconds() - self._cpu
        parts = _cpu_parts(readings, self._meter, cpu)
        for each in accelerators:
            parts += _accelerator_parts(readings, self._meter, each)
        return Used(seconds, cpu, tuple(parts), self._label)

    def finish(self) -> Used:
        """Ends the window and returns what was used in it."""
        self._used = self.used()
        self._start = None
        return self._used

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.used().seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this process and of its children that ended in the window, over all threads."""
        return self.used().cpu_seconds

    @property
    def energy(self) -> Energy:
        """The joules with their source."""
        return self.used().energy

    @property
    def joules(self) -> float | None:
        """The energy of all parts; None where a device that was in use has no figure."""
        return self.used().joules

    @property
    def source(self) -> str:
        """How the joules are known."""
        return self.used().source

    @property
    def parts(self) -> tuple[Part, ...]:
        """The energy of each domain."""
        return self.used().parts

    @property
    def why(self) -> str:
        """Why something was not measured; ``""`` where everything was."""
        return self.used().why

    def to_dict(self) -> dict[str, object]:
        """Returns everything as JSON types."""
        return self.used().to_dict()

    def __str__(self) -> str:
        """Returns one line."""
        return str(self.used())

    def __repr__(self) -> str:
        """Returns the line, and whether that is all."""
        return f"<{'Window' if self._used else 'open Window'}: {self}>"

    def __rich__(self) -> Used:
        """Renders what was used."""
        return self.used()

    def _accelerators(self) -> tuple[torch.device, ...]:
        return in_use() if self._devices is None else self._devices


def _cpu_parts(readings: Sequence[Reading], meter: Meter, cpu: float) -> list[Part]:
    own = [each for each in readings if each.device == "cpu"]
    if _complete(own):
        return _measured(own)
    missing = meter.missing("cpu")
    if not own and missing.elsewhere:
        return [Part("cpu", None, "none", missing.why, needed=False)]
    return [model_cpu(cpu, _whys(own) or missing.why)]


def _accelerator_parts(readings: Sequence[Reading], meter: Meter, device: torch.device) -> list[Part]:
    names = names_of(device)
    own = [each for each in readings if each.device in names]
    if _complete(own):
        return _measured(own)
    # There is no model of an accelerator without its profile: better no total than one without the largest part.
    return [Part(str(device), None, "none", _whys(own) or meter.missing(str(device)).why)]


def _complete(readings: Sequence[Reading]) -> bool:
    """Whether every domain that the device's figure needs has one: of two sockets, one is not half a figure."""
    needed = [each for each in readings if not each.optional]
    return bool(needed) and all(each.joules is not None for each in needed)


def _measured(readings: Sequence[Reading]) -> list[Part]:
    return [
        Part(each.domain, each.joules, f"measured:{each.source}")
        if each.joules is not None
        else Part(each.domain, None, "none", each.why, needed=False)
        for each in readings
    ]


def _whys(readings: Sequence[Reading]) -> str:
    return "; ".join(each.why for each in readings if each.why and not each.optional)
