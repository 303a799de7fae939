"""How long an operation takes on a device, and how much energy that is.

Where operations like it were timed, their rate is taken. If not, the roofline: what limits it is either arithmetic or
memory, so the longer of the two, and in any case the call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ecograph.cost.devices.device import Device, Figure
from ecograph.cost.devices.rates import Rates
from ecograph.cost.steps.kinds import VIEW
from ecograph.cost.steps.op import Op

#: Types of numbers that a device may have no figure of its own for, and which stands in.
_INSTEAD = {"float64": "float32", "float16": "bfloat16", "bfloat16": "float16"}


@dataclass(frozen=True)
class Roofline:
    """Time and energy of operations on a device.

    Attributes:
        device: the device.
    """

    device: Device

    def seconds(self, op: Op) -> float:
        """Returns how long an operation takes, all its runs together."""
        overhead = self.device.overhead.get("backward" if op.phase == "backward" else op.phase)
        beside = overhead.value if overhead is not None else 0.0
        if op.kind == VIEW:
            return op.count * beside
        timed = self._rates.seconds(op)
        return op.count * (beside + self._new_memory(op) + (self._bound(op) if timed is None else timed))

    def joules(self, op: Op) -> float:
        """Returns the energy of an operation, in joules: static power for as long as it takes, and its work."""
        device = self.device
        per_flop = _figure(device.joules_per_flop, op.dtype)
        work = op.flops * per_flop + op.bytes * device.joules_per_byte.value
        return self.seconds(op) * device.watts_static.value + op.count * work

    def total(self, ops: Iterable[Op]) -> tuple[float, float]:
        """Returns seconds and joules of several operations."""
        found = list(ops)
        return sum(map(self.seconds, found)), sum(map(self.joules, found))

    def _new_memory(self, op: Op) -> float:
        """Returns what it takes to get the memory of a large result from the system, page by page."""
        large = op.fresh and op.written > self.device.reused.value
        return op.written * self.device.new_memory.value if large else 0.0

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.device.timings)

    def _bound(self, op: Op) -> float:
        device = self.device
        arithmetic = op.flops / (device.reached.value * _figure(device.flops, op.dtype))
        memory = op.bytes / device.bandwidth.value
        return max(arithmetic, memory, device.call.value)


def _figure(figures: object, dtype: str) -> float:
    assert isinstance(figures, dict)
    known: dict[str, Figure] = figures
    for name in (dtype, _INSTEAD.get(dtype, "float32"), "float32"):
        if name in known:
            return known[name].value
    raise AssertionError("every device has a figure for float32")
