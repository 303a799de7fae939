"""The processes that torchrun started: joined to a group, and what they tell each other."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ecograph.loop.batches import device_of
from ecograph.loop.distributed.alone import Alone
from ecograph.loop.distributed.share import share
from ecograph.loop.distributed.tensors import broadcast, map_tensors

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

#: Whether the process group is one that a loop made, and not the user's script.
_ours = False


class Ranks(Alone):
    """This process, and those that train with it: each is a rank.

    Joins the process group, as torchrun's environment says: nccl for a model on CUDA, gloo for one on the CPU. As a
    context, leaves it at the end. A group that is there already is used, and left alone.

    Args:
        model: that is trained, on the device of this rank.
        optimizer: of its parameters.

    Attributes:
        rank: of this process, from 0.
        count: of processes.

    Raises:
        ValueError: where torchrun did not start this process, and for a model or optimizer that cannot be trained so.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._device = device_of(model)
        _check(model, optimizer, self._device)
        _join(self._device)
        self.rank = dist.get_rank()
        self.count = dist.get_world_size()
        # What ranks say to each other is on the CPU: no rank waits for its GPU to say it.
        self._group = dist.new_group(backend="gloo")
        self._refuse_a_shared_device()

    def share(self, loader: Any, *, pad: bool = True) -> Any:
        """Returns the loader of this rank's share of the batches.

        Args:
            loader: a DataLoader that gives each rank all samples has them dealt out, like cards, in the order of rank
                0; ``batch_size`` stays that of one process. A list of batches that is the same on each rank is dealt
                out too. All else is taken to be this rank's own share: a DataLoader with a ``DistributedSampler``, a
                list that differs between ranks, a stream; streams end together, with the shortest. None is None.
            pad: repeat samples where they do not come out even, so that all ranks take as many steps. False gives
                each sample out once, also of a DataLoader with torch's own ``DistributedSampler``.

        Raises:
            ValueError: for loaders that do not give each rank as many batches.
        """
        return share(loader, self, pad=pad)

    def broadcast_buffers(self, *modules: nn.Module) -> None:
        """Sets the buffers of modules, such as the statistics of BatchNorm, to those of rank 0."""
        for module in modules:
            broadcast(module.buffers())

    @cached_property
    def mesh(self) -> DeviceMesh:
        """All ranks in one row."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self._device.type, (self.count,))

    def tell(self, value: T) -> T:
        """Returns what rank 0 gave; the others' values do not matter."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def everyone(self, value: T) -> list[T]:
        """Returns what each rank gave, in their order."""
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self._group)
        return values

    def collect(self, value: T) -> list[T]:
        """Returns on rank 0 what each rank gave; on the others an empty list."""
        values: list[Any] = [None] * self.count if self.first else []
        dist.gather_object(value, values if self.first else None, dst=0, group=self._group)
        return values

    def deal(self, values: list[T]) -> T:
        """Returns on each rank its own of the values that rank 0 has."""
        mine: list[Any] = [None]
        dist.scatter_object_list(mine, values if self.first else None, src=0, group=self._group)
        found: T = mine[0]
        return found

    def highest(self, number: int) -> int:
        """Returns the largest number that a rank gave."""
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group)
        return int(value)

    def spread(self, tree: Any, keep: Callable[[tuple[str, ...], Tensor], Tensor]) -> Any:
        """Returns what rank 0 gave, with each tensor as ``keep(path, tensor)`` makes of it.

        One tensor at a time: what ``keep`` drops takes no memory.
        """
        outline = self.tell(map_tensors(lambda _, tensor: torch.empty_like(tensor, device="meta"), tree))
        given: list[Tensor] = []
        map_tensors(lambda _, tensor: given.append(tensor), tree if self.first else None)
        left = iter(given)

        def receive(path: tuple[str, ...], shape: Tensor) -> Tensor:
            tensor = next(left).contiguous() if self.first else torch.empty(shape.shape, dtype=shape.dtype)
            broadcast([tensor], self._group)
            return keep(path, tensor)

        return map_tensors(receive, outline)

    def first_does(self, act: Callable[[], T]) -> T:
        """Has rank 0 do something, and returns the result on all ranks; or all fail as it did."""
        result: Any = None
        with self.together():
            if self.first:
                result = act()
        found: T = self.tell(result)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Whatever fails in the block on one rank fails on all of them, so that none waits for ever.

        Nothing within may wait for the other ranks.
        """
        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        failed = [each for each in self.everyone(_portable(error)) if each is not None]
        if error is not None:
            raise error
        if failed:
            raise failed[0]

    def __enter__(self) -> Ranks:
        """Does nothing more: the group was joined before."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the group, if a loop made it."""
        global _ours
        # After an error that only this rank had, nccl would wait here for the others.
        if _ours and (kind is None or self._device.type == "cpu"):
            _ours = False
            dist.destroy_process_group()

    def _refuse_a_shared_device(self) -> None:
        if self._device.type == "cpu":
            return
        places = self.everyone((socket.gethostname(), str(self._device)))
        fix = f"model.to('{self._device.type}:' + os.environ['LOCAL_RANK'])"
        for rank, place in enumerate(places):
            if place in places[:rank]:
                raise ValueError(
                    f"ranks {places.index(place)} and {rank} have their models on the same {place[1]}: give each rank "
                    f"a device of its own, {fix}"
                )


def _check(model: nn.Module, optimizer: Optimizer, device: torch.device) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "the model is in DistributedDataParallel already, and the loop would put it in once more: give "
            "model.module; or, for a loop that leaves it as it is, TrainingLoop(distributed=None)"
        )
    if device.type == "mps":
        raise ValueError("several processes cannot train on mps: give a model on the CPU, or distributed=None")
    own = {id(parameter) for parameter in model.parameters()}
    strange = [each for group in optimizer.param_groups for each in group["params"] if id(each) not in own]
    if strange:
        raise ValueError(
            f"the optimizer holds {len(strange)} parameters that are not the model's: their gradients would differ "
            "between processes, and so would they; make them part of the model"
        )


def _join(device: torch.device) -> None:
    """Joins the group that torchrun's environment describes, unless there is a group."""
    global _ours
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            script = sys.argv[0] if sys.argv[0].endswith(".py") else "train.py"
            raise ValueError(
                "the loop trains in several processes, and this one was started alone: start two of them, or as many "
                f"as there are GPUs, with `torchrun --nproc-per-node=2 {Path(script).name}`; or use distributed=None"
            )
        if device.type != "cpu":
            torch.accelerator.set_device_index(device.index or 0)
        dist.init_process_group(dist.get_default_backend_for_device(device))
        _ours = True


def _portable(error: Exception | None) -> Exception | None:
    """Returns an exception that other processes can raise: the same, or one that says what it was."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
