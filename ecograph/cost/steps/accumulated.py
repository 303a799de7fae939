"""Gradients of a tensor that is used several times: autograd adds up those of its uses."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

_ADD, _ADD_IN_PLACE = torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor


def as_with_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns what autograd's engine would run on real tensors where it adds up gradients.

    It adds to the first one in place, unless that is a view, whose base may be somebody else's
    (``InputBuffer::accumulate`` in PyTorch's ``input_buffer.cpp``). With tensors that have no data it never does.

    Args:
        func: an operation in a backward.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if func is not _ADD or kwargs or len(args) != 2:
        return func
    first, second = args
    if not (isinstance(first, FakeTensor) and isinstance(second, FakeTensor)):
        return func
    alike = first.shape == second.shape and first.dtype == second.dtype
    return _ADD_IN_PLACE if alike and not first._is_view() else func
