"""Parameters that are sharded over ranks (DTensor, as fully_shard makes them): the part that is here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor; asked without importing what a training on one device has no use for."""
    return hasattr(tensor, "device_mesh")


def own_part(tensor: Tensor) -> Tensor:
    """Returns what of a tensor is on this rank: of a DTensor the storage itself, not a copy."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """Returns a tensor as a whole; of a DTensor, all ranks must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def part_of(part: Tensor, like: DTensor) -> DTensor:
    """Returns the tensor, sharded as ``like``, of which every rank has given its part."""
    from torch.distributed.tensor import DTensor

    shape, stride = like.shape, like.stride()
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)


def one_each(own: Tensor, mesh: DeviceMesh) -> DTensor:
    """Returns the tensors of all ranks of a mesh as one, ``(ranks, ...)``; each rank has its own."""
    from torch.distributed.tensor import DTensor, Shard

    return DTensor.from_local(own.unsqueeze(0), mesh, [Shard(0)], run_check=False)


def shard_like(tensor: Tensor, like: DTensor) -> Tensor:
    """Shards a tensor, which all ranks have as a whole, in the way of ``like``."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def aligned(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Returns a gradient that is sharded as its parameter is."""
    if is_sharded(gradient) and is_sharded(parameter) and gradient.placements != parameter.placements:
        return gradient.redistribute(parameter.device_mesh, parameter.placements)
    return gradient


def true_everywhere(flag: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Returns whether ``flag`` (0-d, bool) is true on all ranks that hold a part of any of the parameters."""
    import torch.distributed as dist

    meshes: list[DeviceMesh] = []
    for parameter in parameters:
        if is_sharded(parameter) and parameter.device_mesh not in meshes:
            meshes.append(parameter.device_mesh)
    if not meshes:
        return flag
    number = flag.to(torch.int32)
    for mesh in meshes:
        for dimension in range(mesh.ndim):
            dist.all_reduce(number, op=dist.ReduceOp.MIN, group=mesh.get_group(dimension))
    return number.bool()
