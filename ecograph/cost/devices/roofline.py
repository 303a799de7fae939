"""How long an operation takes on a device, and how much energy that is.

Where operations like it were timed, their rate is taken. If not, the roofline: what limits it is either arithmetic or
memory, so the longer of the two, and in any case the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ecograph.allocator import keeps_memory
from ecograph.cost.devices.device import Device, Figure
from ecograph.cost.devices.rates import Rates
from ecograph.cost.steps.kinds import CALL, FUNCTION, PYTHON, VIEW
from ecograph.cost.steps.op import Op


@dataclass(frozen=True)
class Roofline:
    """Time and energy of operations on a device.

    Attributes:
        device: the device.
    """

    device: Device

    def seconds(self, op: Op) -> float:
        """Returns how long an operation takes, all its runs together."""
        beside = self._beside(op)
        if op.kind in (VIEW, FUNCTION, PYTHON):
            return op.count * beside
        timed = self._rates.seconds(op)
        return op.count * (beside + self._new_memory(op) + (self._bound(op) if timed is None else timed))

    def joules(self, op: Op) -> float:
        """Returns the energy of an operation, in joules: static power for as long as it takes, and its work."""
        return self.cost(op)[1]

    def cost(self, op: Op) -> tuple[float, float]:
        """Returns seconds and joules of an operation, all its runs together."""
        device, seconds = self.device, self.seconds(op)
        work = op.flops * self._of_type(device.joules_per_flop, op) + op.bytes * device.joules_per_byte.value
        return seconds, seconds * device.watts_static.value + op.count * work

    def total(self, ops: Iterable[Op]) -> tuple[float, float]:
        """Returns seconds and joules of several operations."""
        found = [self.cost(op) for op in ops]
        return sum(seconds for seconds, _ in found), sum(joules for _, joules in found)

    def _beside(self, op: Op) -> float:
        """Returns what calling an operation takes beside its own time, with so much of the caches filled by others."""
        in_python = op.kind in (FUNCTION, PYTHON)
        there = self.device.overhead.get(op.kind if in_python else op.phase)
        # The optimizer runs the same few operations on one parameter after another.
        again = op.phase == "optimizer" and not in_python
        further = None if again else self.device.swept.get(op.kind if in_python or op.kind == VIEW else CALL)
        return (0.0 if there is None else there.value) + (0.0 if further is None else op.swept * further.value)

    def _new_memory(self, op: Op) -> float:
        """Returns what it takes to get the memory of a large result from the system, page by page."""
        large = op.fresh and op.written > self.device.reused.value and not (op.device == "cpu" and keeps_memory())
        return op.written * self.device.new_memory.value if large else 0.0

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.device.timings)

    def _bound(self, op: Op) -> float:
        device = self.device
        arithmetic = op.flops / (device.reached.value * self._of_type(device.flops, op))
        memory = op.bytes / device.bandwidth.value
        one_by_one = op.parts if device.type == "cpu" else 1
        return max(arithmetic, memory, one_by_one * device.call.value)

    def _of_type(self, figures: Mapping[str, Figure], op: Op) -> float:
        """Returns the figure for the type that an operation computes with; for one that has none, that of float32."""
        dtype = "tf32" if op.dtype == "float32" and self._uses_tf32(op) else op.dtype
        return figures.get(dtype, figures["float32"]).value

    def _uses_tf32(self, op: Op) -> bool:
        """Whether torch, as it is set, may compute in TF32: by default in convolutions, and not in matrix products."""
        if self.device.type != "cuda" or "tf32" not in self.device.flops:
            return False
        backends: Any = torch.backends
        backend = backends.cudnn.conv if op.kind == "conv" else backends.cuda.matmul
        return str(backend.fp32_precision) == "tf32"
