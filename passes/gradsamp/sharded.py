"""Parameters that are sharded over processes by ``fully_shard`` or tensor parallelism: as whole tensors, and back.

Every process computes the same from whole tensors, one parameter at a time, and takes its part of the result. So a
sharded model is sampled as one that is not, bit for bit. What is imported here takes a second to load: only where there
are several processes.
"""

from __future__ import annotations

import torch.distributed
from torch import Tensor, nn


def prepare(model: nn.Module) -> None:
    """Has ``fully_shard`` take back the whole copies of parameters that an evaluation leaves; changes to them are lost.

    Raises:
        ValueError: for a model in the older FSDP wrapper.
    """
    if not _distributed():
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    for module in model.modules():
        if isinstance(module, FullyShardedDataParallel):
            raise ValueError(
                "GradSamp cannot sample a model in FullyShardedDataParallel, whose parameters are pieces of flat "
                "ones: use torch.distributed.fsdp.fully_shard, or DistributedDataParallel"
            )
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor that may be sharded as a plain one, gathered from all processes."""
    if _distributed():
        from torch.distributed.tensor import DTensor

        if isinstance(tensor, DTensor):
            gathered: Tensor = tensor.full_tensor()
            return gathered
    return tensor


def like(target: Tensor, value: Tensor) -> Tensor:
    """Returns ``value``, which every process has all of, sharded as ``target`` is, if it is; nothing is sent."""
    if _distributed():
        from torch.distributed.tensor import DTensor, distribute_tensor

        if isinstance(target, DTensor):
            return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    return value


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
