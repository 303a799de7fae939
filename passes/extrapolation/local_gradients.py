"""This worker's own gradients, taken from DistributedDataParallel on their way to the all-reduce."""

# Without `from __future__ import annotations`: DDP reads those of a hook, and does not take them as strings.

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket  # torch.distributed's own, which type checkers do not find there
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

#: Sends a bucket of gradients to the other workers and gives their mean, as DDP's communication hooks do.
Reduce = Callable[[GradBucket], torch.futures.Future[Tensor]]


class LocalGradients:
    """The gradients of a worker that reduces by itself, or not at all: as they are when a backward has ended.

    Attributes:
        mesh: the workers, or None where they are not known.
    """

    mesh: DeviceMesh | None = None

    def __init__(self) -> None:
        self._kept: dict[Tensor, Tensor] = {}

    def end_of_backward(self, parameters: Iterable[Tensor]) -> None:
        """Keeps what has come together so far."""
        self._kept = {each: each.grad.detach().clone() for each in parameters if each.grad is not None}

    def take(self) -> dict[Tensor, Tensor]:
        """Returns the gradient of each parameter since the last call, and forgets them."""
        kept, self._kept = self._kept, {}
        return kept

    def close(self) -> None:
        """Keeps nothing from here on."""
        self._kept = {}


class BucketGradients(LocalGradients):
    """A communication hook that keeps a copy of what comes in and leaves the rest to the hook it stands before.

    With several batches per step, all that this worker's batches gave together is kept, whether DDP reduces after each
    of them or, under ``no_sync``, after the last.

    Attributes:
        reduce: what DDP does with a bucket.
        wanted: whether to keep copies.
    """

    def __init__(self, reduce: Reduce, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh
        self.reduce = reduce
        self.wanted = True

    def hook(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Keeps the gradients of a bucket, and has them reduced."""
        if self.wanted:
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
                before = self._kept.get(parameter)
                self._kept[parameter] = gradient.clone() if before is None else before.add_(gradient)
        return self.reduce(bucket)

    @torch.no_grad()
    def before_forward(self, module: nn.Module, args: Any) -> None:
        """Prepares for another batch of the same step.

        Its backward adds to gradients that are reduced already, and DDP then brings the sum. So what is in them is
        taken off here: own - reduced, then + (reduced + new), is own + new.
        """
        for parameter, own in list(self._kept.items()):
            if parameter.grad is None:  # the step was given up, and its gradients are gone
                del self._kept[parameter]
            else:
                own.sub_(parameter.grad)

    def end_of_backward(self, parameters: Iterable[Tensor]) -> None:
        """Does nothing: the hook has seen to it."""

    def close(self) -> None:
        """Keeps nothing from here on; DDP does not let go of a hook, so it goes on reducing."""
        super().close()
        self.wanted = False


#: DDP takes one hook and keeps it; whoever comes later goes on with the one that is there.
_registered: WeakKeyDictionary[DistributedDataParallel, BucketGradients] = WeakKeyDictionary()


def _hook(state: BucketGradients, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    return state.hook(bucket)


def local_gradients(model: nn.Module, reduce: Reduce | None) -> LocalGradients:
    """Returns what keeps a worker's own gradients; for DistributedDataParallel, registered as its hook.

    Args:
        model: that is trained.
        reduce: with DDP, in place of the all-reduce that takes the mean.

    Raises:
        ValueError: where the model has another communication hook.
    """
    if not isinstance(model, DistributedDataParallel):
        return LocalGradients()
    reduce = reduce or partial(allreduce_hook, model.process_group)
    found = _registered.get(model)
    if found is not None:
        found.reduce, found.wanted = reduce, True
        found.take()
        return found
    made = BucketGradients(reduce, DeviceMesh.from_group(model.process_group, next(model.parameters()).device.type))
    try:
        model.register_comm_hook(made, _hook)
    except RuntimeError as error:
        raise ValueError(
            "direction='local' needs the communication hook of DistributedDataParallel, which the model has already: "
            "do not register it, but give it to Extrapolation(reduce=...), a function of the bucket"
        ) from error
    model.register_forward_pre_hook(made.before_forward)
    _registered[model] = made
    return made
