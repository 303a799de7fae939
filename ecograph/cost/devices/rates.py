"""How fast a device does an operation, from timings of operations like it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from ecograph.cost.devices.device import Timing
from ecograph.cost.steps.op import Op

#: How many of the nearest timings are averaged.
NEAREST = 4
#: A product that is a factor of four from all that was timed runs as the nearest of them does: others are no nearer to
#: how it runs, and smaller ones run slower.
FAR = 2.0


@dataclass(frozen=True)
class Rates:
    """Timings, by what they are of.

    Args:
        timings: taken on one device.
    """

    timings: tuple[Timing, ...]

    def seconds(self, op: Op) -> float | None:
        """Returns how long an operation takes; None where nothing like it was timed."""
        return self._product(op) if op.sizes else self._other(op)

    def _product(self, op: Op) -> float | None:
        group = _group(op)
        for key in ((op.kind, op.grad, op.dtype, op.channels_last, group), (op.kind, op.grad, op.dtype, group)):
            if key in self._products:
                found = self._products[key]
                break
        else:
            return None
        work = max(op.flops, 1)
        near = _nearest(found, _features(op))
        # Per FLOP, in logarithms: rates of neighbours differ by factors.
        return work * math.exp(sum(share * math.log(timing.seconds / max(timing.flops, 1)) for timing, share in near))

    def _other(self, op: Op) -> float | None:
        phase = "forward" if op.phase in ("forward", "recomputed") else op.phase
        keys = _other_keys(op.name, op.kind, phase, op.dtype, op.strided)
        curve = next((self._others[key] for key in keys if key in self._others), None)
        return None if curve is None else _on_curve(curve, op.bytes)

    @cached_property
    def _products(self) -> dict[tuple[object, ...], list[_Placed]]:
        found: dict[tuple[object, ...], list[_Placed]] = {}
        for timing in self.timings:
            if timing.sizes:
                placed = timing, _features(timing)
                group = _group(timing)
                for key in (
                    (timing.kind, timing.grad, timing.dtype, timing.channels_last, group),
                    (timing.kind, timing.grad, timing.dtype, group),
                ):
                    found.setdefault(key, []).append(placed)
        return found

    @cached_property
    def _others(self) -> dict[tuple[object, ...], list[tuple[float, float]]]:
        found: dict[tuple[object, ...], list[Timing]] = {}
        for timing in self.timings:
            if not timing.sizes:
                keys = _other_keys(timing.name, timing.kind, timing.phase, timing.dtype, timing.strided)
                for key in dict.fromkeys(keys):
                    found.setdefault(key, []).append(timing)
        return {key: _curve(timings) for key, timings in found.items()}


def _other_keys(name: str, kind: str, phase: str, dtype: str, strided: bool) -> list[tuple[object, ...]]:
    """Returns what an operation may be looked up by, from what is most like it to what is least."""
    return [
        (name, phase, dtype, strided), (name, dtype, strided), (name, dtype), (name,),
        (kind, phase, dtype), (kind, dtype), (kind,),
    ]  # fmt: skip


def _curve(timings: Sequence[Timing]) -> list[tuple[float, float]]:
    """Returns bytes and seconds, ascending; timings of about the same size are averaged."""
    bins: dict[int, list[Timing]] = {}
    for timing in timings:
        bins.setdefault(round(math.log2(max(timing.bytes, 1))), []).append(timing)
    return [(mean(each.bytes for each in bins[at]), mean(each.seconds for each in bins[at])) for at in sorted(bins)]


def _on_curve(curve: Sequence[tuple[float, float]], moved: float) -> float:
    """Returns the seconds for so many bytes: a line between two sizes, and beyond the last as fast as the last."""
    first, last = curve[0], curve[-1]
    if moved <= first[0]:
        return first[1]  # the call is all
    for (low, quick), (high, slow) in zip(curve, curve[1:], strict=False):
        if moved <= high:
            return quick + (slow - quick) * (moved - low) / (high - low)
    return last[1] * moved / last[0]


_Placed = tuple[Timing, tuple[float, ...]]


def _group(op: Op | Timing) -> str:
    """Returns which products are alike whatever their size."""
    if op.kind != "conv":
        return "batched" if op.sizes[0] > 1 else ""
    _, groups, inputs, outputs, kernel, *_ = op.sizes
    if groups == 1:
        return "1x1" if kernel == 1 else ""
    return "depthwise" if inputs == outputs == 1 else "grouped"


def _features(op: Op | Timing) -> tuple[float, ...]:
    """Returns where a product is among all others: what its rate depends on, in powers of two."""
    if op.kind != "conv":
        return tuple(math.log2(max(size, 1)) for size in op.sizes)
    images, groups, inputs, outputs, kernel, before, after = op.sizes
    return (
        0.5 * math.log2(images),
        math.log2(images * after),
        math.log2(inputs * (groups if inputs == 1 else 1)),
        math.log2(outputs * (groups if inputs == 1 else 1)),
        # Kernels for depthwise convolutions are written for sizes, and others are many times slower.
        (3 if inputs == outputs == 1 else 1) * math.log2(kernel),
        math.log2(max(before, 1) / max(after, 1)),
    )


def _nearest(found: Iterable[_Placed], place: Sequence[float]) -> list[tuple[Timing, float]]:
    """Returns the nearest timings, each with its share in an average."""
    ranked = sorted((math.dist(where, place), index, timing) for index, (timing, where) in enumerate(found))[:NEAREST]
    if ranked[0][0] > FAR:
        ranked = ranked[:1]
    weights = [1 / (distance + 0.05) ** 2 for distance, _, _ in ranked]
    return [(timing, weight / sum(weights)) for (_, _, timing), weight in zip(ranked, weights, strict=True)]
