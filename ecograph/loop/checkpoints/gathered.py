"""States of which every process has a part: put together to be written, and taken apart again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ecograph.loop.distributed.tensors import Path, map_tensors

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

#: For each tensor that is sharded, by its path, the dimension along which it is.
Sharded = dict[str, int]


def gather(state: Mapping[str, Any], *, first: bool) -> tuple[dict[str, Any], Sharded]:
    """Returns a state with every sharded tensor whole, and which those are.

    All processes must ask, and of the whole tensors only the first one keeps what it gets, on the CPU.
    """
    sharded: Sharded = {}

    def whole(path: Path, tensor: Any) -> Any:
        if not hasattr(tensor, "device_mesh"):
            return tensor
        (placement,) = tensor.placements
        sharded["/".join(path)] = placement.dim
        full = tensor.to(tensor.device_mesh.device_type).full_tensor()
        return full.cpu() if first else None

    found: dict[str, Any] = map_tensors(whole, dict(state))
    return found, sharded


def shard(sharded: Sharded, mesh: Callable[[], DeviceMesh]) -> Callable[[Path, Tensor], Tensor]:
    """Returns what keeps of a whole tensor this process's part, where :func:`gather` found it sharded.

    Args:
        sharded: what it returned.
        mesh: the processes; asked for only where something is sharded.
    """

    def keep(path: Path, tensor: Tensor) -> Tensor:
        dimension = sharded.get("/".join(path))
        if dimension is None:
            return tensor
        from torch.distributed.tensor import Shard, distribute_tensor

        on_device = tensor.to(mesh().device_type)
        return distribute_tensor(on_device, mesh(), [Shard(dimension)], src_data_rank=None).clone()

    return keep
