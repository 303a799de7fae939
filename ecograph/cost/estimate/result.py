"""What an estimate says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from ecograph.cost.devices.device import Device, Figure
from ecograph.cost.steps.op import PHASES
from ecograph.printed import Printed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class Amount:
    """What some operations cost.

    Attributes:
        seconds: time.
        joules: energy.
        flops: of products, a multiply-add being two.
        bytes: moved.
        calls: operations that were called, views left out.
    """

    seconds: float = 0.0
    joules: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        """Adds field by field."""
        return Amount(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __sub__(self, other: Amount) -> Amount:
        """Subtracts field by field."""
        return self + other * -1

    def __mul__(self, share: float) -> Amount:
        """Multiplies every field."""
        return Amount(*(getattr(self, name) * share for name in self.__dataclass_fields__))

    def to_dict(self) -> dict[str, float]:
        """Returns the fields."""
        return asdict(self)


#: Phase of a step -> what is spent in it.
Amounts = Mapping[str, Amount]


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs in a step.

    Attributes:
        name: path of the module; "" for what the model, the loss and the optimizer do outside of any layer.
        type: class of the module, as it is without the passes.
        before: phase -> cost of the plain step.
        after: the same, on average over the schedule of the passes.
    """

    name: str
    type: str
    before: Amounts
    after: Amounts

    @property
    def total_before(self) -> Amount:
        """Of all phases of the plain step."""
        return sum(self.before.values(), Amount())

    @property
    def total_after(self) -> Amount:
        """Of all phases, on average over the schedule."""
        return sum(self.after.values(), Amount())


@dataclass(frozen=True)
class PassCost:
    """What a pass saves in a step.

    Attributes:
        name: of the pass.
        saved: on average over its schedule, given the passes named before it; negative where it costs more.
        peak: while it acts at its peak, without averaging.
    """

    name: str
    saved: Amount
    peak: Amount


@dataclass(frozen=True)
class Memory:
    """What a step keeps.

    Attributes:
        activations: bytes at the peak of forward and backward, gradients included.
        parameters: bytes of parameters and buffers.
        optimizer: bytes of the optimizer's state.
    """

    activations: float
    parameters: int
    optimizer: int


@dataclass(frozen=True, repr=False)
class Estimate(Printed):
    """What a training step will cost; prints as tables.

    Attributes:
        model: class name.
        device: for which the figures are.
        layers: in the order in which they run.
        passes: in their order.
        memory_before: of the plain step.
        memory_after: of the rewritten one, where it keeps most.
        uncounted: operations of which nothing is known but their bytes -> how often each runs.
        notes: what the user should know about the figures.
    """

    model: str
    device: Device
    layers: Sequence[LayerCost]
    passes: Sequence[PassCost]
    memory_before: Memory
    memory_after: Memory
    uncounted: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def source(self) -> str:
        """How the figures are known."""
        return self.device.source

    @property
    def before(self) -> Amounts:
        """Phase -> cost of the plain step."""
        return _by_phase([layer.before for layer in self.layers])

    @property
    def after(self) -> Amounts:
        """Phase -> cost of the rewritten step, on average over the schedule."""
        return _by_phase([layer.after for layer in self.layers])

    @property
    def total_before(self) -> Amount:
        """Cost of the plain step."""
        return sum(self.before.values(), Amount())

    @property
    def total_after(self) -> Amount:
        """Cost of the rewritten step, on average over the schedule."""
        return sum(self.after.values(), Amount())

    def to_dict(self) -> dict[str, Any]:
        """Returns the estimate as JSON types."""
        return {
            "model": self.model,
            "device": device_dict(self.device),
            "source": self.source,
            "before": _amounts_dict(self.before),
            "after": _amounts_dict(self.after),
            "layers": [
                {
                    "name": layer.name,
                    "type": layer.type,
                    "before": _amounts_dict(layer.before),
                    "after": _amounts_dict(layer.after),
                }
                for layer in self.layers
            ],
            "passes": [
                {"name": each.name, "saved": each.saved.to_dict(), "saved_at_peak": each.peak.to_dict()}
                for each in self.passes
            ],
            "memory_before": asdict(self.memory_before),
            "memory_after": asdict(self.memory_after),
            "memory_source": "counted",
            "uncounted": dict(self.uncounted),
            "notes": list(self.notes),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the estimate as tables."""
        from ecograph.cost.estimate.table import render

        yield from render(self, options.max_width)


def device_dict(device: Device) -> dict[str, Any]:
    """Returns the figures of a device, each with its source, as JSON types."""
    found: dict[str, Any] = {
        "name": device.name,
        "title": device.title,
        "type": device.type,
        "threads": device.threads,
        "timings": len(device.timings),
        "spread": device.spread,
    }
    for name, value in vars(device).items():
        if isinstance(value, Figure):
            found[name] = _figure_dict(value)
        elif isinstance(value, Mapping):
            found[name] = {key: _figure_dict(figure) for key, figure in value.items()}
    return found


def _figure_dict(figure: Figure) -> dict[str, Any]:
    """Returns a figure as JSON types: without a limit, which JSON has no number for, its value is None."""
    return {"value": figure.value if isfinite(figure.value) else None, "source": figure.source}


def _by_phase(parts: Sequence[Amounts]) -> Amounts:
    found: dict[str, Amount] = {}
    for part in parts:
        for phase, amount in part.items():
            found[phase] = found.get(phase, Amount()) + amount
    return {phase: found[phase] for phase in PHASES if phase in found}


def _amounts_dict(amounts: Amounts) -> dict[str, Any]:
    return {phase: amount.to_dict() for phase, amount in amounts.items()}
