"""Layer by layer: rewritten, or why not, and what that saves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from io import StringIO
from typing import TYPE_CHECKING, Any

from torch import nn

from ecograph.cost.flops import Flops
from ecograph.record import Record, SiteRecord, records

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@dataclass(frozen=True)
class LayerReport:
    """One product of the model.

    Attributes:
        name: the layer.
        type: class of the module that computes it.
        output_shape: for the example inputs; None where unknown.
        rewritten_by: the pass, or "".
        reason: why it was left alone, or "".
        before: FLOPs of the plain step; None where shapes are unknown.
        after: FLOPs of the step as rewritten, on average over the schedule.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    rewritten_by: str
    reason: str
    before: Flops | None
    after: Flops | None

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
class Report:
    """What ``optimize`` did to a model; prints as a table.

    Attributes:
        model: class name.
        passes: each pass's options, with the mean of its rate over the planned training.
        layers: every product with a parameter weight.
        other: FLOPs of products without one, such as attention.
        parts: how the model was captured: (path, method, note).
    """

    model: str
    passes: list[dict[str, Any]]
    layers: list[LayerReport]
    other: Flops
    parts: list[tuple[str, str, str]] = field(default_factory=list)

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
        return sum((layer.after for layer in self.layers if layer.after), self.other)

    def saved_by(self, pass_name: str) -> int:
        """Returns the FLOPs per step that a pass saves, on average over the schedule."""
        ours = [layer for layer in self.layers if layer.rewritten_by == pass_name and layer.before and layer.after]
        return sum(layer.before.total - layer.after.total for layer in ours if layer.before and layer.after)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON types."""
        return {
            "model": self.model,
            "passes": [
                {
                    **options,
                    "layers": sum(layer.rewritten_by == options["name"] for layer in self.layers),
                    "flops_saved_per_step": self.saved_by(options["name"]),
                }
                for options in self.passes
            ],
            "layers": [layer.to_dict() for layer in self.layers],
            "other_flops": _flops_dict(self.other),
            "flops_before": _flops_dict(self.before),
            "flops_after": _flops_dict(self.after),
            "flops_source": "counted" if self.complete else "incomplete: shapes unknown for some layers",
            "capture": [{"path": path, "method": method, "note": note} for path, method, note in self.parts],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the report as tables."""
        from ecograph.report_table import render

        yield from render(self, options.max_width)

    def __str__(self) -> str:
        """Returns the tables as text."""
        from shutil import get_terminal_size

        from rich.console import Console

        text = StringIO()
        Console(file=text, width=max(get_terminal_size((120, 24)).columns, 100)).print(self)
        return text.getvalue().rstrip("\n")

    __repr__ = __str__


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
    return Report(
        model=type(model).__name__,
        passes=[
            {**options, "mean_rate": sum(value * share for value, share in mix.items())}
            for record in found
            for options, mix in zip(record.passes, record.mixes, strict=True)
        ],
        layers=layers,
        other=sum((record.other_flops for record in found if record.other_flops), Flops()),
        parts=[part for record in found for part in record.parts],
    )


def _layer_report(site: SiteRecord, record: Record) -> LayerReport:
    layer = site.layer
    before = site.flops or getattr(layer, "flops", None)
    reason = site.reason
    rewritten_by = site.pass_name
    if layer is not None and layer.dense_because is None:
        reason = "decided at the first training batch"
    elif layer is not None and layer.dense_because:
        reason, rewritten_by = layer.dense_because, ""
    after = before
    if before is not None and layer is not None and rewritten_by and not reason:
        mix = record.mixes[[rate is layer.rate for rate in record.rates].index(True)]
        parts = [(layer.cost(before, rate, site.channels), share) for rate, share in mix.items()]
        names = [f.name for f in fields(Flops)]
        after = Flops(*(round(sum(getattr(flops, name) * share for flops, share in parts)) for name in names))
    name = site.name if site.call == 0 else f"{site.name} (call {site.call + 1})"
    return LayerReport(name, site.type, site.output_shape, rewritten_by, reason, before, after)


def _flops_dict(flops: Flops | None) -> dict[str, int] | None:
    if flops is None:
        return None
    return asdict(flops)
