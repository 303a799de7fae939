"""Estimating a training step: recorded without data, costed on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ecograph.capture.inputs import device_of
from ecograph.cost.devices import Device, Roofline, find_device
from ecograph.cost.devices.device import DISTURBED
from ecograph.cost.devices.find import AUTO
from ecograph.cost.devices.shipped import in_words
from ecograph.cost.estimate.result import Amount, Estimate, LayerCost, Memory, PassCost
from ecograph.cost.steps import Step, record_step
from ecograph.cost.steps.kinds import FUNCTION, PYTHON, VIEW
from ecograph.cost.steps.optimizer import as_on_gpu
from ecograph.cost.steps.record import LossOf
from ecograph.record import ATTRIBUTE, records
from ecograph.schedule import Mix

#: A gradual schedule is taken at so many of its rates.
MOST_RATES = 4

#: layer -> phase -> cost
_Costs = dict[str, dict[str, Amount]]


def estimate(
    model: nn.Module,
    example_inputs: Any,
    *,
    device: str | Device = AUTO,
    loss: LossOf | None = None,
    optimizer: Any = None,
    amp: str | None = None,
) -> Estimate:
    """Estimates what a training step of ``model`` takes: time, energy, memory; of each layer, and saved by each pass.

    Nothing is computed. On the meta device this works for models larger than memory.

    Args:
        model: plain, or as ``ecograph.optimize`` returned it: then both steps are estimated, and the passes' part.
        example_inputs: a batch, as ``ecograph.optimize`` takes it; only shapes count.
        device: a name (see ``ecograph.cost.devices.find_device``) or a device.
        loss: from what the model returns to a number; see ``record_step``.
        optimizer: a class of ``torch.optim``, a function that makes one, or an optimizer; see ``record_step``.
        amp: ``"bf16"`` or ``"fp16"`` for a forward under autocast.

    Raises:
        ValueError: for a device, inputs or a precision that there is not.
    """
    if not isinstance(device, Device):
        place = device_of(model)
        device = find_device(device, type="cuda" if place is not None and place.type == "cuda" else "cpu")
    if device.type == "cuda" and optimizer is not None:
        optimizer = as_on_gpu(optimizer)
    roofline = Roofline(device)
    full = _mixes(model)
    mixes, peaks = {name: few(mix) for name, mix in full.items()}, {name: max(mix) for name, mix in full.items()}

    def record(rates: Mapping[str, float]) -> Step:
        gpu = device.type == "cuda"
        return record_step(model, example_inputs, loss=loss, optimizer=optimizer, amp=amp, rates=rates, elsewhere=gpu)

    plain = record(dict.fromkeys(mixes, 0.0))
    before = _costs(plain, roofline)
    found: dict[tuple[float, ...], tuple[_Costs, Step]] = {(0.0,) * len(mixes): (before, plain)}

    def at(key: tuple[float, ...]) -> tuple[_Costs, Step]:
        if key not in found:
            step = record(dict(zip(mixes, key, strict=True)))
            found[key] = _costs(step, roofline), step
        return found[key]

    after, passes, previous = before, [], _sum(before)
    combined: list[tuple[tuple[float, ...], float]] = [(next(iter(found)), 1.0)]
    for index, (name, mix) in enumerate(mixes.items()):
        # Passes act independently of each other, as far as is known here.
        combined = [
            (_with(rates, index, rate), share * part) for rates, share in combined for rate, part in mix.items()
        ]
        after = _average([(at(rates)[0], share) for rates, share in combined])
        now, alone = _sum(after), _with((0.0,) * len(mixes), index, peaks[name])
        passes.append(PassCost(name, previous - now, _sum(before) - _sum(at(alone)[0])))
        previous = now
    types = {**plain.types, **_plain_types(model)}
    names = list(dict.fromkeys([*before, *after]))
    return Estimate(
        model=type(model).__name__,
        device=device,
        layers=[LayerCost(name, types.get(name, ""), before.get(name, {}), after.get(name, {})) for name in names],
        passes=passes,
        memory_before=_memory([plain]),
        memory_after=_memory([at(rates)[1] for rates, _ in combined]),
        uncounted=plain.uncounted,
        notes=_notes(plain, device),
    )


def _mixes(model: nn.Module) -> dict[str, Mix]:
    """Returns for each pass on the model the share of steps at each of its rates."""
    found: dict[str, Mix] = {}
    for record in records(model):
        for options, mix in zip(record.passes, record.mixes, strict=True):
            found[options["name"]] = mix
    return found


def _plain_types(model: nn.Module) -> dict[str, str]:
    """Returns the class names of the layers that passes gave another class, by their paths in the model."""
    found: dict[str, str] = {}
    for path, part in model.named_modules():
        for change in part.__dict__[ATTRIBUTE].lowered if ATTRIBUTE in part.__dict__ else ():
            if change.original is not None:
                name = f"{path}.{change.path}" if path and change.path else path or change.path
                found.setdefault(name, change.original.__name__)
    return found


def few(mix: Mix) -> Mix:
    """Returns a mix of at most ``MOST_RATES`` rates with the same mean: neighbours become one."""
    ordered = sorted(mix.items())
    if len(ordered) <= MOST_RATES:
        return dict(ordered)
    size = math.ceil(len(ordered) / MOST_RATES)
    merged: Mix = {}
    for begin in range(0, len(ordered), size):
        part = ordered[begin : begin + size]
        share = sum(each for _, each in part)
        rate = sum(value * each for value, each in part) / share
        merged[rate] = merged.get(rate, 0.0) + share
    return merged


def _with(rates: tuple[float, ...], index: int, rate: float) -> tuple[float, ...]:
    return (*rates[:index], rate, *rates[index + 1 :])


def _average(parts: Sequence[tuple[_Costs, float]]) -> _Costs:
    """Returns costs on average, each with its share."""
    total: _Costs = {}
    for costs, share in parts:
        for layer, phases in costs.items():
            into = total.setdefault(layer, {})
            for phase, amount in phases.items():
                into[phase] = into.get(phase, Amount()) + amount * share
    return total


def _costs(step: Step, roofline: Roofline) -> _Costs:
    found: _Costs = {}
    for op in step.ops:
        seconds, joules = roofline.cost(op)
        amount = Amount(
            seconds=seconds,
            joules=joules,
            flops=op.flops * op.count,
            bytes=op.bytes * op.count,
            calls=0 if op.kind in (VIEW, FUNCTION, PYTHON) else op.count,
        )
        phases = found.setdefault(op.layer, {})
        phases[op.phase] = phases.get(op.phase, Amount()) + amount
    return found


def _sum(costs: _Costs) -> Amount:
    return sum((amount for phases in costs.values() for amount in phases.values()), Amount())


def _memory(steps: Sequence[Step]) -> Memory:
    most = max(steps, key=lambda step: step.activation_bytes)
    return Memory(most.activation_bytes, most.parameter_bytes, most.state_bytes)


def _notes(step: Step, device: Device) -> list[str]:
    notes = [step.note] if step.note else []
    if not device.calibrated and device.type == "cpu":
        notes.append(
            f"this CPU was not measured with {in_words(device.threads)}, so times may be wrong by a factor of two: run "
            "ecograph calibrate"
        )
    if device.calibrated:
        timed = {timing.dtype for timing in device.timings if timing.sizes}
        missing = sorted({op.dtype for op in step.ops if op.flops} - timed)
        if missing:
            notes.append(f"products in {', '.join(missing)} were not measured, so their times are rough")
        if device.spread > DISTURBED:
            notes.append(f"the calibration was disturbed (spread {device.spread:.0%}): run ecograph calibrate again")
    if step.uncounted:
        notes.append(
            "of these operations nothing is known but their bytes: "
            + ", ".join(f"{name} ({count}x)" for name, count in step.uncounted.items())
        )
    return notes
