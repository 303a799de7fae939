"""How fast a device does an operation, from timings of operations like it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean

from ecograph.cost.devices.device import Timing
from ecograph.cost.devices.line import Line, fit
from ecograph.cost.steps.conv_memory import BLOCK
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
        for key in _product_keys(op):
            if key in self._products:
                line = self._line(key)
                near = _nearest(self._products[key], _features(op))
                # How its neighbours lie off the line; in logarithms, since they do by factors.
                off = sum(share * math.log(timing.seconds / _on_line(line, timing)) for timing, share in near)
                return _on_line(line, op) * math.exp(off)
        return None

    def _line(self, key: tuple[object, ...]) -> Line:
        if key not in self._lines:
            timings = [timing for timing, _ in self._products[key]]
            self._lines[key] = fit(
                [_work(each) for each in timings], [each.bytes for each in timings], [each.seconds for each in timings]
            )
        return self._lines[key]

    @cached_property
    def _lines(self) -> dict[tuple[object, ...], Line]:
        return {}

    def _other(self, op: Op) -> float | None:
        phase = "forward" if op.phase in ("forward", "recomputed") else op.phase
        # On the CPU, an operation on several tensors is done on one after the other.
        name = op.name.replace("._foreach_", ".")
        keys = _other_keys(name, op.kind, phase, op.dtype, op.strided)
        curve = next((self._others[key] for key in keys if key in self._others), None)
        return None if curve is None else op.parts * _on_curve(curve, op.bytes / op.parts)

    @cached_property
    def _products(self) -> dict[tuple[object, ...], list[_Placed]]:
        found: dict[tuple[object, ...], list[_Placed]] = {}
        for timing in self.timings:
            if timing.sizes:
                placed = timing, _features(timing)
                for key in _product_keys(timing):
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


def _product_keys(op: Op | Timing) -> list[tuple[object, ...]]:
    """Returns what a product may be looked up by, from what is most like it to what is least."""
    of = op.kind, op.grad, op.dtype
    return [(*of, each, group) for group in _groups(op) for each in (op.channels_last, None)]


def _groups(op: Op | Timing) -> list[str]:
    """Returns which products are alike whatever their size, those most alike first."""
    if op.kind != "conv":
        return ["batched" if op.sizes[0] > 1 else ""]
    _, groups, inputs, outputs, kernel, before, after = op.sizes
    if groups == 1:
        return ["1x1" if kernel == 1 else ""]
    if not inputs == outputs == 1:
        return ["grouped"]
    # With strides the gradients have other kernels: in bfloat16 on CPUs some take 15 times as long.
    return ["depthwise, strided" if before >= 2 * after else "depthwise", "any depthwise"]


def alike(op: Op | Timing) -> tuple[object, ...]:
    """Returns what products have in common that differ in size alone."""
    return _product_keys(op)[0] if op.sizes else (op.name,)


def _features(op: Op | Timing) -> tuple[float, ...]:
    """Returns where a product is among all others: what its rate depends on, in powers of two."""
    if op.kind != "conv":
        return tuple(math.log2(max(size, 1)) for size in op.sizes)
    images, groups, inputs, outputs, kernel, before, after = op.sizes
    inputs, outputs = _computed(groups, inputs, outputs)
    return (
        0.5 * math.log2(images),
        math.log2(images * after),
        math.log2(inputs * (groups if inputs == 1 else 1)),
        math.log2(outputs * (groups if inputs == 1 else 1)),
        # Kernels for depthwise convolutions are written for sizes, and others are many times slower.
        (3 if inputs == outputs == 1 else 1) * math.log2(kernel),
        math.log2(max(before, 1) / max(after, 1)),
    )


#: A convolution of so few input channels has kernels of its own: images.
FEW = 4


def _computed(groups: int, inputs: int, outputs: int) -> tuple[int, int]:
    """Returns the channels that are computed for those there are: whole blocks, where channels are in no groups."""
    if groups > 1:
        return inputs, outputs
    return inputs if inputs <= FEW else -(-inputs // BLOCK) * BLOCK, -(-outputs // BLOCK) * BLOCK


def _work(op: Op | Timing) -> float:
    """Returns the FLOPs that are computed, those for nothing included."""
    if op.kind != "conv":
        return max(op.flops, 1)
    _, groups, inputs, outputs, *_ = op.sizes
    computed = _computed(groups, inputs, outputs)
    return max(op.flops, 1) * (computed[0] * computed[1]) / (inputs * outputs)


def _on_line(line: Line, op: Op | Timing) -> float:
    return line.seconds(_work(op), op.bytes)


def _nearest(found: Iterable[_Placed], place: Sequence[float]) -> list[tuple[Timing, float]]:
    """Returns the nearest timings, each with its share in an average."""
    ranked = sorted((math.dist(where, place), index, timing) for index, (timing, where) in enumerate(found))[:NEAREST]
    if ranked[0][0] > FAR:
        ranked = ranked[:1]
    weights = [1 / (distance + 0.05) ** 2 for distance, _, _ in ranked]
    return [(timing, weight / sum(weights)) for (_, _, timing), weight in zip(ranked, weights, strict=True)]
