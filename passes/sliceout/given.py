"""Slices whose starts are given from outside: while the model is traced for a runtime that draws them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ecograph.passes.sliceout.take import Cut


class Given(Protocol):
    """What an exporter puts on a :class:`~.draws.SliceRate` while it traces."""

    def start(self, name: str) -> Tensor:
        """Returns the first unit of a group's slice: ``(1,)``, int64."""
        ...

    def narrow(self, tensor: Tensor, dim: int, start: Tensor, length: int) -> Tensor:
        """Returns a stretch of a dimension, as ``torch.narrow`` does; the start ``(1,)`` is only known later."""
        ...


def take_given(tensor: Tensor, cut: Cut, given: Given) -> Tensor:
    """Returns what is kept of a dimension, one stretch for each segment and block."""
    dim, parts, offset = cut.dim, [], 0
    for segment in cut.layout:
        found = cut.slices.get(segment.group) if segment.group else None
        if found is None or not found.active:
            parts.append(tensor.narrow(dim, offset, segment.size))
        else:
            start, length = given.start(found.name) * segment.inner, found.width * segment.inner
            if segment.outer == 1:
                parts.append(given.narrow(tensor, dim, start + offset, length))
            else:
                sizes = (*tensor.shape[:dim], segment.outer, -1, *tensor.shape[dim + 1 :])
                blocks = tensor.narrow(dim, offset, segment.size).reshape(sizes)
                parts.append(given.narrow(blocks, dim + 1, start, length).flatten(dim, dim + 1))
        offset += segment.size
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
