"""Layer by layer: rewritten, or why not, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from torch import nn

from ecograph.cost.flops import Flops
from ecograph.printed import Printed
from ecograph.record import GroupRecord, Record, SiteRecord, records
from ecograph.schedule import Mix

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ecograph.rewrite.passes import Layer


@dataclass(frozen=True)
class LayerReport:
    """One product of the model.

    Attributes:
        name: the layer.
        type: class of the module that computes it.
        output_shape: for the example inputs; None where unknown.
        passes: the passes that rewrote it.
        reason: why it was left alone, or "".
        before: FLOPs of the plain step; None where shapes are unknown.
        after: FLOPs of the step as rewritten, on average over the schedule.
        saved: for each pass, the FLOPs per step that it saves, given those named before it.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    passes: tuple[str, ...]
    reason: str
    before: Flops | None
    after: Flops | None
    saved: Mapping[str, int] = field(default_factory=dict)

    @property
    def rewritten_by(self) -> str:
        """The passes in words, or ""."""
        return " + ".join(self.passes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON types."""
        return {
            "name": self.name,
            "type": self.type,
            "output_shape": None if self.output_shape is None else list(self.output_shape),
            "rewritten_by": self.rewritten_by or None,
            "reason": self.reason or None,
            "flops_before": _flops_dict(self.before),
            "flops_after": _flops_dict(self.after),
        }


@dataclass(frozen=True)
class GroupReport:
    """One channel group, or a layer that is in none.

    Attributes:
        name: of the group: the first layer that makes it.
        members: the layers and tensors that belong to it; none for a layer that is in no group.
        units: channels, heads or groups of a convolution.
        width: elements in full.
        slice_width: elements of a slice at the peak rate; None where it stays whole.
        starts: at how many places a slice may begin.
        sliced_by: the pass, or "".
        reason: why it stays whole, or "".
        before: FLOPs of its layers in the plain step.
        after: FLOPs of its layers as rewritten, by all passes and groups that they belong to.
        bytes_before: of the activations that have its width, views counted once.
        bytes_after: of the same, on average over the schedule.
    """

    name: str
    members: tuple[str, ...]
    units: int
    width: int
    slice_width: int | None
    starts: int | None
    sliced_by: str
    reason: str
    before: Flops
    after: Flops
    bytes_before: int
    bytes_after: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON types."""
        words = {"sliced_by": self.sliced_by or None, "reason": self.reason or None}
        return {**asdict(self), "members": list(self.members), **words}


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """What ``optimize`` did to a model; prints as a table.

    Attributes:
        model: class name.
        passes: each pass's options, with the mean of its rate over the planned training.
        layers: every product with a parameter weight.
        other: FLOPs of products without one, such as attention.
        other_after: the same, on average over the schedule.
        parts: how the model was captured: (path, method, note).
        groups: where a pass slices channel groups, every group, and the layers that are in none.
        notes: what the user should know about how to train now.
        judged_for: for which device, and how that is known, it was decided what pays; "" where that was not asked.
    """

    model: str
    passes: list[dict[str, Any]]
    layers: list[LayerReport]
    other: Flops
    other_after: Flops
    parts: list[tuple[str, str, str]] = field(default_factory=list)
    groups: list[GroupReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    judged_for: str = ""

    @property
    def complete(self) -> bool:
        """Whether the FLOPs of every layer are known."""
        return all(layer.before is not None for layer in self.layers)

    @property
    def before(self) -> Flops:
        """FLOPs of the plain training step, as far as shapes are known."""
        return sum((layer.before for layer in self.layers if layer.before), self.other)

    @property
    def after(self) -> Flops:
        """FLOPs of the rewritten training step on average over the schedule, as far as shapes are known."""
        return sum((layer.after for layer in self.layers if layer.after), self.other_after)

    def saved_by(self, pass_name: str) -> int:
        """Returns the FLOPs per step that a pass saves, on average over the schedule."""
        saved = sum(layer.saved.get(pass_name, 0) for layer in self.layers)
        slices = any(group.sliced_by == pass_name for group in self.groups)
        return saved + slices * (self.other.total - self.other_after.total)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON types."""
        return {
            "model": self.model,
            "passes": [
                {
                    **options,
                    "layers": sum(options["name"] in layer.passes for layer in self.layers),
                    "flops_saved_per_step": self.saved_by(options["name"]),
                }
                for options in self.passes
            ],
            "layers": [layer.to_dict() for layer in self.layers],
            "groups": [group.to_dict() for group in self.groups],
            "other_flops": _flops_dict(self.other),
            "other_flops_after": _flops_dict(self.other_after),
            "flops_before": _flops_dict(self.before),
            "flops_after": _flops_dict(self.after),
            "flops_source": "counted" if self.complete else "incomplete: shapes unknown for some layers",
            "notes": self.notes,
            "judged_for": self.judged_for or None,
            "capture": [{"path": path, "method": method, "note": note} for path, method, note in self.parts],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the report as tables."""
        from ecograph.report_table import render

        yield from render(self, options.max_width)


def explain(model: nn.Module) -> Report:
    """Explains an optimized model: per layer what was rewritten, or why not, and the FLOPs before and after.

    FLOPs are counted from shapes, for one step on a batch like the example inputs. Without example inputs they are
    known for rewritten layers after the first training batch.

    Args:
        model: an optimized model, also wrapped in DDP or compiled.

    Raises:
        ValueError: where the model was not optimized.
    """
    found = records(model)
    if not found:
        raise ValueError(
            f"{type(model).__name__} is not optimized: call ecograph.optimize(model, example_inputs=...) first"
        )
    layers: list[LayerReport] = []
    for record in found:
        layers += [_layer_report(site, record) for site in record.sites]
    groups = [_group_report(group, layers, record) for record in found for group in record.groups]
    return Report(
        groups=groups,
        notes=[note for record in found for note in record.notes],
        judged_for="; ".join(dict.fromkeys(record.judged_for for record in found if record.judged_for)),
        model=type(model).__name__,
        passes=[
            {**options, "mean_rate": sum(value * share for value, share in mix.items())}
            for record in found
            for options, mix in zip(record.passes, record.mixes, strict=True)
        ],
        layers=layers,
        other=sum((record.other_flops for record in found if record.other_flops), Flops()),
        other_after=sum((_other_after(record) for record in found), Flops()),
        parts=[part for record in found for part in record.parts],
    )


def _layer_report(site: SiteRecord, record: Record) -> LayerReport:
    layer, reason, passes = site.layer, site.reason, site.passes
    inner: Layer | None = getattr(layer, "inner", None)
    before = site.flops or getattr(layer, "flops", None) or getattr(inner, "flops", None)
    deciding = inner or layer  # a slice is decided at once; what computes it may wait for the first batch
    if deciding is not None and deciding.dense_because is None and len(passes) == 1:
        reason = "decided at the first training batch"
    elif deciding is not None and deciding.dense_because != "":
        passes = passes[:-1]
        reason = "" if passes else deciding.dense_because or ""
    after, saved = before, {}
    if before is not None and layer is not None and passes and not reason:
        steps = [_mixed(layer, before, site.channels, record, inside=None)]
        if len(passes) > 1:
            steps = [_mixed(layer, before, site.channels, record, inside={0.0: 1.0}), *steps]
            assert inner is not None
            steps[-1] = _mixed(layer, before, site.channels, record, inside=_mix_of(inner, record))
        for name, previous, now in zip(passes, [before, *steps], steps, strict=False):
            saved[name] = previous.total - now.total
        after = steps[-1]
    name = site.name if site.call == 0 else f"{site.name} (call {site.call + 1})"
    return LayerReport(name, site.type, site.output_shape, passes, reason, before, after, saved)


def _other_after(record: Record) -> Flops:
    """Returns the FLOPs of products without a parameter weight, on average over the schedule."""
    total = record.other_flops or Flops()
    for flops, slices in record.sliced_flops:
        mix = _mix_of(slices[0], record)
        share = sum(part * math.prod(s.width_at(rate) / s.units for s in slices) for rate, part in mix.items())
        total += Flops(*(round(getattr(flops, f.name) * (share - 1)) for f in fields(Flops)))
    return total


def _mix_of(layer: Any, record: Record) -> Mix:
    """Returns the mix of the rate of a layer or slice."""
    return record.mixes[[rate is layer.rate for rate in record.rates].index(True)]


def _mixed(layer: Layer, before: Flops, channels: int | None, record: Record, inside: Mix | None) -> Flops:
    """Returns a layer's FLOPs on average over its schedule.

    Args:
        layer: what computes it.
        before: of the plain call.
        channels: of the call.
        record: of the model.
        inside: for a slice, the schedule of what computes the small product. Both are taken to be independent.
    """
    options = {} if inside is None or not hasattr(layer, "inner") else {"mix": inside}
    parts = [(layer.cost(before, rate, channels, **options), share) for rate, share in _mix_of(layer, record).items()]
    names = [f.name for f in fields(Flops)]
    return Flops(*(round(sum(getattr(flops, name) * share for flops, share in parts)) for name in names))


def _group_report(group: GroupRecord, layers: Sequence[LayerReport], record: Record) -> GroupReport:
    inside = [layer for layer in layers if layer.name in group.members and layer.before and layer.after]
    found, reason = group.slice, group.reason
    share = 1.0
    if found is not None:
        mix = _mix_of(found, record)
        share = sum(found.width_at(rate) * part for rate, part in mix.items()) / group.units
    return GroupReport(
        name=group.name,
        members=group.members,
        units=group.units,
        width=group.width,
        slice_width=None if found is None else found.width_at(found.rate.peak) * (group.width // group.units),
        starts=None if found is None else found.choices,
        sliced_by=group.pass_name,
        reason=reason,
        before=sum((layer.before for layer in inside if layer.before), Flops()),
        after=sum((layer.after for layer in inside if layer.after), Flops()),
        bytes_before=group.activation_bytes,
        bytes_after=round(group.activation_bytes * share),
    )


def _flops_dict(flops: Flops | None) -> dict[str, int] | None:
    if flops is None:
        return None
    return asdict(flops)
