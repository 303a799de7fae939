"""Taking channels out of tensors and putting them back, each memory layout in its fastest way.

The tensors are small enough for these copies to show: on 2 CPU cores ``torch.gather`` along contiguous rows takes a
half to a tenth of the time of advanced indexing or of ``index_select`` across strides.
"""

from __future__ import annotations

import torch
from torch import Tensor


def take_columns(matrix: Tensor, index: Tensor) -> Tensor:
    """Returns ``matrix[:, index]`` for ``matrix`` ``(M, C)`` with contiguous rows; the result has them too."""
    return matrix.gather(1, index.expand(matrix.shape[0], -1))


def take_rows(matrix: Tensor, index: Tensor) -> Tensor:
    """Returns ``matrix[index]`` for ``matrix`` ``(C, I)``, whichever of its dimensions is contiguous in memory."""
    if matrix.stride(1) != 1 and matrix.stride(0) == 1:  # the transposed view of an (I, C) weight
        return take_columns(matrix.t(), index).t()
    return matrix.index_select(0, index)


def put_rows(like: Tensor, fill: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Returns a tensor like ``like`` that holds ``rows`` at ``index`` along dim 0, and ``fill`` everywhere else.

    Args:
        like: ``(C, ...)``; gives shape and strides (a gradient with its parameter's strides is not copied again).
        fill: ``(C,)``.
        index: ``(k,)``.
        rows: ``(k, ...)``.
    """
    full = torch.empty_like(like, dtype=rows.dtype)
    if like.ndim == 2 and like.stride(1) != 1 and like.stride(0) == 1:
        full.copy_(fill.unsqueeze(1))
        full.t().scatter_(1, index.expand(like.shape[1], -1), rows.t())
        return full
    full.copy_(fill.view(-1, *(1,) * (like.ndim - 1)))
    return full.index_copy_(0, index, rows)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels of ``(N, C, *positions)`` are contiguous in memory, and positions are not."""
    return tensor.shape[1] > 1 and not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous()


def as_channels_last(tensor: Tensor, yes: bool) -> Tensor:
    """Returns ``(N, C, *positions)`` with its channels (or, with ``yes=False``, its positions) contiguous."""
    if yes:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    return tensor.contiguous()
