"""Parameters that are sharded over ranks (DTensor, as fully_shard makes them): the part that is here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor; asked without importing what a training on one device has no use for."""
    return hasattr(tensor, "device_mesh")


def own_part(tensor: Tensor) -> Tensor:
    """Returns what of a tensor is on this rank: of a DTensor the storage itself, not a copy, under ``no_grad``."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """Returns a tensor as a whole; of a DTensor, all ranks must ask."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shards a tensor, which all ranks have as a whole, in the way of the DTensor ``like``."""
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    return distribute_tensor(tensor, sharded.device_mesh, sharded.placements, src_data_rank=None)


def aligned(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Returns a gradient that is sharded as its parameter is."""
    if not is_sharded(gradient) or not is_sharded(parameter):
        return gradient
    have: Any = gradient
    want: Any = parameter
    return have if have.placements == want.placements else have.redistribute(want.device_mesh, want.placements)


def true_everywhere(flag: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Returns whether ``flag`` (0-d, bool) is true on all ranks that hold a part of any of the parameters."""
    import torch.distributed as dist

    meshes: list[Any] = []
    for parameter in parameters:
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is not None and mesh not in meshes:
            meshes.append(mesh)
    if not meshes:
        return flag
    number = flag.to(torch.int32)
    for mesh in meshes:
        for dimension in range(mesh.ndim):
            dist.all_reduce(number, op=dist.ReduceOp.MIN, group=mesh.get_group(dimension))
    return number.bool()
