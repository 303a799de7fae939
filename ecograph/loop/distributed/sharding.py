"""A model that `fully_shard` spreads over the ranks for the time of a training, and that is whole again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ecograph.loop.distributed.tensors import broadcast


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the modules to shard one by one: the entries of the outermost lists of layers, then the model.

    One of them at a time is whole in memory. A block that shares a weight with the rest of the model belongs to the
    rest, and a model that is sharded already has none.
    """
    from torch.distributed.fsdp import FSDPModule

    if any(isinstance(module, FSDPModule) for module in model.modules()):
        return
    for path, block in _entries("", model):
        elsewhere = {
            id(each)
            for name, module in model.named_modules(remove_duplicate=False)
            if not f"{name}.".startswith(f"{path}.")
            for each in module.parameters(recurse=False)
        }
        own = {id(each) for each in block.parameters()}
        if own and not own & elsewhere:
            yield block
    yield model


def _entries(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        place = f"{path}.{name}" if path else name
        if isinstance(module, nn.ModuleList | nn.Sequential) and not isinstance(child, nn.ModuleList):
            yield place, child
        else:
            yield from _entries(place, child)


def of_parts(average: Callable[..., None]) -> Callable[..., None]:
    """Returns an averaging function for `AveragedModel` that works on the parts of tensors that are here.

    Those of torch take all tensors of a type at once, and refuse sharded weights together with whole buffers.
    """

    def average_parts(averaged: list[Tensor], current: list[Tensor], count: Any) -> None:
        average([_part(each) for each in averaged], [_part(each) for each in current], count)

    return average_parts


def _part(tensor: Any) -> Tensor:
    found: Tensor = tensor.to_local() if hasattr(tensor, "device_mesh") else tensor
    return found


class Sharding:
    """What a model and its optimizer were before they were sharded, to come back to.

    Made before `fully_shard` is called; gives every rank the weights and buffers of rank 0, since each keeps a part.

    Args:
        model: that will be sharded in place.
        optimizer: made from its whole parameters.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._kinds = {module: type(module) for module in model.modules()}
        self._attributes = {module: _attributes(module) for module in model.modules()}
        self._whole = dict(model.named_parameters(remove_duplicate=False))
        self._added: dict[nn.Module, set[tuple[str, ...]]] = {}
        self._parts: dict[int, nn.Parameter] = {}
        tensors = (*model.parameters(), *model.buffers())
        broadcast(each for each in tensors if not hasattr(each, "device_mesh"))

    @torch.no_grad()
    def point_optimizer(self) -> None:
        """Has the optimizer train the parts in place of the whole parameters, whose memory is freed."""
        self._added = {module: _attributes(module) - before for module, before in self._attributes.items()}
        parts = dict(self._model.named_parameters(remove_duplicate=False))
        changed = {name: whole for name, whole in self._whole.items() if parts[name] is not whole}
        self._parts = {id(whole): parts[name] for name, whole in changed.items()}
        for group in self._optimizer.param_groups:
            group["params"] = [self._parts.get(id(each), each) for each in group["params"]]
        for whole in dict.fromkeys(changed.values()):
            part = self._parts[id(whole)]
            state = self._optimizer.state.pop(whole, None)
            if state is not None:
                self._optimizer.state[part] = {name: _shard_like(part, value) for name, value in state.items()}
            whole.grad = None
            whole.data = whole.data.new_empty(0)

    @torch.no_grad()
    def undo(self) -> None:
        """Makes the model what it was: every parameter whole on every rank, and the same object.

        The optimizer holds them again, without its state, for which there may be no room.
        """
        from torch.distributed._composable_state import _module_state_mapping

        if not self._parts:
            return
        self._optimizer.zero_grad(set_to_none=True)
        self._optimizer.state.clear()
        wholes = {}
        for whole in dict.fromkeys(self._whole.values()):
            part: Any = self._parts.get(id(whole))
            if part is not None:
                whole.data = part.full_tensor()
                whole.requires_grad_(part.requires_grad)
                wholes[id(part)] = whole
        for group in self._optimizer.param_groups:
            group["params"] = [wholes.get(id(each), each) for each in group["params"]]
        for module, kind in self._kinds.items():
            module.__class__ = kind
            for place in self._added[module]:
                _remove(module, place)
            _module_state_mapping.pop(module, None)
        for name, whole in self._whole.items():
            owner, _, attribute = name.rpartition(".")
            setattr(self._model.get_submodule(owner), attribute, whole)


def _attributes(module: nn.Module) -> set[tuple[str, ...]]:
    """Returns the names of a module's attributes, and of the hooks in them."""
    found: set[tuple[Any, ...]] = set()
    for name, value in module.__dict__.items():
        found.add((name,))
        if isinstance(value, dict) and "hook" in name:
            found |= {(name, key) for key in value}
    return found


def _remove(module: nn.Module, place: tuple[Any, ...]) -> None:
    if len(place) == 1:
        module.__dict__.pop(place[0], None)
    else:
        module.__dict__.get(place[0], {}).pop(place[1], None)


def _shard_like(part: Any, value: Any) -> Any:
    """Returns what an optimizer keeps for each element of a parameter, sharded as the parameter is."""
    from torch.distributed.tensor import distribute_tensor

    if not isinstance(value, Tensor) or value.shape != part.shape or value.ndim == 0:
        return value
    return distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)
