"""Which channel groups of the optimized model are sliced, and where the slices start: an input of the exported graph.

A graph has one width for each group, that of the pass's peak rate. Steps at rate 0, such as the full epochs that a
:class:`ecograph.Scheduler` ends with, are taken by a second graph, of the full network, with the same parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecograph.record import records
from ecograph.schedule import Rate

#: The graph's input ``(slices,)``, int64: the first unit of each slice.
STARTS = "ecograph.starts"


@dataclass(frozen=True)
class ExportedSlice:
    """A channel group of which a step sees a slice.

    Attributes:
        name: of the group.
        units: of the group: channels, heads.
        inner: elements of a unit.
        width: units of the slice.
        pass_index: which of the model's passes slices it.
    """

    name: str
    units: int
    inner: int
    width: int
    pass_index: int


class Slices:
    """The slices of a model, all at their peak rate or none, and their starts while the model is traced.

    Args:
        model: optimized or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._groups: list[tuple[Any, int]] = []
        before = 0  # passes of the records so far
        for record in records(model):
            names = [options["name"] for options in record.passes]
            for group in record.groups:
                if group.slice is not None:
                    self._groups.append((group.slice, before + names.index(group.pass_name)))
            before += len(record.passes)
        self.rates: list[Any] = list({id(each.rate): each.rate for each, _ in self._groups}.values())

    @contextmanager
    def cut(self, whole: bool) -> Iterator[list[ExportedSlice]]:
        """While this lasts, the slices are as wide as at the peak rate or, with ``whole``, as all of the group.

        Yields:
            Those that are cut in training mode, in the order of their starts.
        """
        before = [rate.now for rate in self.rates]
        try:
            for rate in self.rates:
                rate.set(0.0 if whole else rate.peak)
            found = []
            for each, index in self._groups:
                if each.active:
                    each.scale()  # it is kept: what a trace makes has no values
                    found.append(ExportedSlice(each.name, each.units, each.inner, each.width, index))
            yield found
        finally:
            for rate, value in zip(self.rates, before, strict=True):
                rate.set(value)

    @contextmanager
    def started_at(self, starts: Tensor) -> Iterator[None]:
        """While this lasts, the slices that are cut begin where ``starts`` ``(slices,)`` says."""
        active = [each for each, _ in self._groups if each.active]
        try:
            for rate in self.rates:
                names = [each.name if each.rate is rate else "" for each in active]
                rate.given = _Traced(starts, names)
            yield
        finally:
            for rate in self.rates:
                rate.given = None


class _Traced:
    """The starts of the groups of one rate, while they are traced."""

    def __init__(self, starts: Tensor, names: Sequence[str]) -> None:
        self.starts, self.names = starts, names

    def start(self, name: str) -> Tensor:
        """Returns the start of a group: ``(1,)``, int64."""
        return self.starts.narrow(0, self.names.index(name), 1)

    def narrow(self, tensor: Tensor, dim: int, start: Tensor, length: int) -> Tensor:
        """Returns a stretch of a dimension. As a node of ONNX: in torch, a start that is not known is a new size."""
        shape = [*tensor.shape]
        shape[dim] = length
        inputs = (tensor, start, start + length, torch.tensor([dim]))
        return torch.onnx.ops.symbolic("Slice", inputs, dtype=tensor.dtype, shape=shape, version=13)


def starts_of(slices: Sequence[ExportedSlice], passes: Sequence[Any], rates: Sequence[Rate]) -> list[Any]:
    """Returns what knows the start of each slice while ``rates`` draw."""
    return [
        passes[each.pass_index].group_slice(each.name, each.units, each.inner, rates[each.pass_index])
        for each in slices
    ]
