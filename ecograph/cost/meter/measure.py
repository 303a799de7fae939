"""``ecograph.measure()``: the energy of a block of code, or of every call of a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from types import TracebackType

from ecograph.cost.meter.devices import Devices, check_devices
from ecograph.cost.meter.meter import Meter
from ecograph.cost.meter.used import Used
from ecograph.cost.meter.window import Window


class measure(ContextDecorator):  # noqa: N801 - it is used like a function
    """Measures the time and the energy of a block.

    >>> with ecograph.measure() as used:
    ...     train()
    >>> print(used)
    312 J in 24.1 s, measured:rapl

    Zeus, the extra ``energy``, reads the meters: NVML for NVIDIA's GPUs, AMD's and Apple's own, RAPL for CPUs. Without
    it, without permission, and for a block that is too short for the meter, the energy of the CPU is modelled from its
    CPU time; `used.source` says which it is, `used.why` why, and ``ecograph doctor`` what to do.

    What is measured is the whole package, and the whole GPU, with all that others run on it at the time; what is
    modelled is this process alone. A GPU that was used and not measured has no model: `used.joules` is None then.

    Blocks may be nested and overlap, and may fail: `used` has the figures all the same. Within the block it has
    those so far. As a decorator, it measures each call by itself:

    >>> @ecograph.measure(label="epoch", report=print)
    ... def epoch(): ...

    Args:
        devices: accelerators whose energy counts besides the CPU's, such as "cuda:0" or a list of such; "cpu" for none.
            None: those on which this process has tensors when the block ends.
        meter: to read in place of the best of this machine.
        label: starts the text.
        report: called with the figures after the block, also where it failed.

    Raises:
        ValueError: for devices or a meter that are none.
    """

    def __init__(
        self,
        *,
        devices: Devices = None,
        meter: Meter | None = None,
        label: str = "",
        report: Callable[[Used], object] | None = None,
    ) -> None:
        check_devices(devices)
        self._devices = tuple(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
        self._meter = meter
        self._label = label
        self._report = report
        self._windows: list[Window] = []

    def __enter__(self) -> Window:
        """Begins a window."""
        window = Window(devices=self._devices, meter=self._meter, label=self._label)
        self._windows.append(window)
        return window

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the window, whatever happened in it."""
        used = self._windows.pop().finish()
        if self._report is not None:
            self._report(used)

    def _recreate_cm(self) -> measure:
        """Gives each call of a decorated function, also from several threads, a window of its own."""
        return measure(devices=self._devices, meter=self._meter, label=self._label, report=self._report)
