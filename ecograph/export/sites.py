"""Which products of the optimized model have a sparse backward, and a mark on each in the exported graph.

The decision is ``optimize``'s: while the model is traced, its layers hand their products in here, are computed by the
plain function, and are followed by a mark that the exporter turns into a node of its own. So whatever ``optimize``
finds, be it a plain layer, a routed product in a custom forward or a layer that is called twice, is in the ONNX graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecograph import registry
from ecograph.record import Record, SiteRecord, records
from ecograph.rewrite.functions import plain_conv

#: Begins the names of the nodes that belong to a site.
PREFIX = "ecograph.site."


@dataclass(frozen=True)
class ExportedSite:
    """One call of a product whose backward is sparse.

    Attributes:
        name: the layer's name.
        kind: ``"conv"`` or ``"linear"``.
        groups: of the convolution.
        channels: output channels, per group.
        grads: whether grad_input, and grad_weight with grad_bias, are sparse.
        random: random channels are kept, not those with the highest scores.
        unbiased: what is kept is scaled by one over the share that is kept.
        pass_index: which of the model's passes it belongs to.
    """

    name: str
    kind: str
    groups: int
    channels: int
    grads: tuple[bool, bool]
    random: bool
    unbiased: bool
    pass_index: int


def mark(output: Tensor, index: int) -> Tensor:
    """Puts a mark behind the output of a site, while the exporter traces."""
    return torch.onnx.ops.symbolic(
        "ecograph::Site", (output,), {"index": index}, dtype=output.dtype, shape=output.shape, version=1
    )


def check_exportable(model: nn.Module) -> None:
    """Raises ValueError for what ``optimize`` did that cannot be exported."""
    for record in records(model):
        for options in record.passes:
            why_not = getattr(registry.from_dict(options), "why_not_exported", None)
            if why_not is not None and why_not():
                raise ValueError(f"{options['name']}: {why_not()}")
        for site in record.sites:
            layer = _product_layer(site)
            if layer is not None and not hasattr(layer, "gradients"):
                raise ValueError(
                    f"{site.name}: the pass {site.passes[0]!r} cannot be exported; optimize the model without it"
                )


def _product_layer(site: SiteRecord) -> Any:
    """Returns what computes a product, within what slices its operands; None where that is torch's own function."""
    layer: Any = site.layer
    return layer.inner if hasattr(layer, "slices") else layer


def settle(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Has layers that wait for the first training batch decide now whether a sparse backward pays, by an example batch.

    A copy of the model sees the batch, so nothing but the decisions is changed.
    """
    if all(site.layer is None or site.layer.dense_because is not None for r in records(model) for site in r.sites):
        return
    copied = copy.deepcopy(model)
    with torch.enable_grad():
        copied.train()(*args, **kwargs)
    for own, seen in zip(records(model), records(copied), strict=True):
        for site, decided in zip(own.sites, seen.sites, strict=True):
            if site.layer is not None and decided.layer is not None and site.layer.dense_because is None:
                # A layer that the batch did not reach stays dense.
                found = decided.layer.dense_because
                site.layer.dense_because = "the example batch did not reach it" if found is None else found


@contextmanager
def marked(model: nn.Module) -> Iterator[list[ExportedSite]]:
    """While this lasts, the rewritten products of ``model`` are plain ones with a mark.

    Yields:
        The sites, in the order in which a trace comes by; their indices are those of the marks.
    """
    found: list[ExportedSite] = []
    changed: list[Any] = []
    held: list[tuple[Any, bool]] = []
    before = 0  # passes of the records so far
    try:
        for record in records(model):
            held += [(rate, rate.scheduled) for rate in record.rates]
            for rate in record.rates:
                rate.scheduled = True  # a trace is no step
            for site in record.sites:
                layer = _product_layer(site)
                if layer is None or layer.dense_because != "" or layer in changed:
                    continue
                changed.append(layer)
                marking = _Marking(site, layer, before + _pass_index(record, site), found)
                layer.linear, layer.conv, layer.acts = marking.linear, marking.conv, lambda training: training
            before += len(record.passes)
        yield found
    finally:
        for layer in changed:
            del layer.linear, layer.conv, layer.acts
        for rate, scheduled in held:
            rate.scheduled = scheduled


def _pass_index(record: Record, site: SiteRecord) -> int:
    return next(i for i, options in enumerate(record.passes) if options["name"] == site.passes[-1])


class _Marking:
    """Computes a layer's products plainly, and marks them."""

    def __init__(self, site: SiteRecord, layer: Any, pass_index: int, found: list[ExportedSite]) -> None:
        self.site, self.layer, self.pass_index, self.found = site, layer, pass_index, found

    def _mark(self, output: Tensor, kind: str, channels: int, groups: int = 1) -> Tensor:
        grads, random, unbiased = self.layer.gradients()
        name = self.site.name
        self.found.append(ExportedSite(name, kind, groups, channels, grads, random, unbiased, self.pass_index))
        return mark(output, len(self.found) - 1)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # As a matrix, so that it is one Gemm whatever the leading dimensions are.
        rows = input if input.dim() == 2 else input.reshape(-1, weight.shape[1])
        output = self._mark(F.linear(rows, weight, bias), "linear", weight.shape[0])
        return output if input.dim() == 2 else output.reshape(*input.shape[:-1], weight.shape[0])

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        transposed: bool = False,
        output_padding: Any = 0,
    ) -> Tensor:
        if transposed and groups > 1:
            name = self.site.name
            raise ValueError(
                f"{name}: a transposed convolution with groups cannot have a sparse backward in ONNX Runtime: leave it "
                f"out with optimize(..., skip=[{name!r}])"
            )
        unbatched = input.ndim == weight.ndim - 1
        output = plain_conv(
            input.unsqueeze(0) if unbatched else input, weight, bias, stride, padding, dilation, groups,
            transposed=transposed, output_padding=output_padding,
        )  # fmt: skip
        output = self._mark(output, "conv", output.shape[1] // groups, groups)
        return output.squeeze(0) if unbatched else output
