"""The tensors in a state, wherever in its dicts and lists they are; and from rank 0 to all others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: Where in a state something is: the keys that lead to it.
Path = tuple[str, ...]


def map_tensors(change: Callable[[Path, Any], Any], state: Any, path: Path = ()) -> Any:
    """Returns ``state`` with every tensor in it as ``change(path, tensor)`` makes of it.

    Dicts keep their type, order and attributes, such as the versions in a module's state_dict.
    """
    if isinstance(state, Tensor):
        return change(path, state)
    if isinstance(state, dict):
        changed = copy.copy(state)
        for key, value in state.items():
            changed[key] = map_tensors(change, value, (*path, str(key)))
        return changed
    if type(state) in (list, tuple):
        return type(state)(map_tensors(change, each, (*path, str(at))) for at, each in enumerate(state))
    return state


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor], group: Any = None) -> None:
    """Sets tensors to those of rank 0, whatever their type: as bytes, since backends do not know all types."""
    for tensor in tensors:
        plain = tensor.detach().contiguous()
        if plain.numel():
            dist.broadcast(plain.view(-1).view(torch.uint8), src=0, group=group)
            if plain.data_ptr() != tensor.data_ptr():
                tensor.copy_(plain)
