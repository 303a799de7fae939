"""The run-time object: puts the weights ahead for a forward and backward, and back again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ecograph.passes.extrapolation.config import DIRECTIONS, check_radius
from ecograph.passes.extrapolation.noise import noise
from ecograph.passes.extrapolation.sharding import (
    aligned,
    is_sharded,
    one_each,
    own_part,
    part_of,
    shard_like,
    true_everywhere,
)
from ecograph.passes.extrapolation.trained import Trained, all_finite, trained
from ecograph.rewrite.options import one_of, whole_number

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ecograph.passes.extrapolation.local_gradients import LocalGradients, Reduce


class Extrapolation:
    """Has gradients computed at extrapolated weights: ``w - radius * direction``.

    Only the parameters that the optimizer holds and that need a gradient take part, each once. The weights are copied
    for the time that they are ahead, and come back from that copy, bit for bit, also when an exception is raised.

    Args:
        model: that is trained; needed for DistributedDataParallel with ``"local"``.
        optimizer: any that computes no gradients of its own; it steps once, with gradients as always.
        radius: how far ahead.
        direction: ``"past"``: the gradients at the last :meth:`update`. ``"noise"``: Gaussian, with the root mean
            square of each parameter for its standard deviation. ``"local"``: this worker's gradients before they were
            reduced; without DDP, those at the end of :meth:`shifted`.
        steps: optimizer steps after which weights stay where they are. None: always.
        seed: of the noise.
        reduce: for ``"local"``: what a communication hook of one's own does with a bucket, such as
            ``functools.partial(fp16_compress_hook, model.process_group)``. None: the mean over the workers.

    Raises:
        ValueError: for an option or an optimizer that cannot work, with the fix.

    Example:
        >>> extrapolation = Extrapolation(model, optimizer, radius=0.1)
        >>> for inputs, targets in loader:
        ...     optimizer.zero_grad()
        ...     with extrapolation.shifted():
        ...         loss_fn(model(inputs), targets).backward()
        ...     extrapolation.update()
        ...     optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        radius: float,
        direction: Literal["past", "noise", "local"] = "past",
        steps: int | None = None,
        seed: int = 0,
        reduce: Reduce | None = None,
    ) -> None:
        check_radius(radius)
        one_of("direction", direction, DIRECTIONS)
        whole_number("seed", seed, 0)
        if steps is not None:
            whole_number("steps", steps, 0)
        _check(model, optimizer, direction)
        self.radius = radius
        self.direction = direction
        self.seed = seed
        self._optimizer = optimizer
        self._steps = steps
        self._step = 0
        self._stopped = False
        self._gradients: dict[int, Tensor] = {}  # the direction, by the parameter's index; of a shard, the shard's
        self._local = _local_gradients(model, reduce) if direction == "local" else None
        self._ahead = False  # whether the weights are
        self._unseen = False  # whether there are gradients that update was not told of
        _watch(optimizer, self)

    @property
    def active(self) -> bool:
        """Whether the next step is extrapolated, if there is a direction for it yet."""
        return not self._stopped and (self._steps is None or self._step < self._steps)

    @contextmanager
    def shifted(self) -> Iterator[None]:
        """Keeps the weights ahead within the block, for the forwards and backwards of one optimizer step.

        One block around all batches of a step, or one around each: until :meth:`update`, the place is the same.

        Raises:
            RuntimeError: for a block inside another.
        """
        if self._ahead:
            raise RuntimeError("shifted() inside shifted(): the weights are ahead already, so leave out the inner one")
        if not self.active or self.radius == 0:
            yield
            return
        moved = [each for each in trained(self._optimizer) if self._noisy or each.index in self._gradients]
        weights = [each.weight for each in moved]
        originals = [weight.clone() for weight in weights]
        self._ahead = self._unseen = True
        try:
            self._shift(moved)
            yield
        finally:
            with torch.no_grad():
                for weight, original in zip(weights, originals, strict=True):
                    weight.copy_(original)
            self._ahead = False
            if self._local is not None:
                self._local.end_of_backward(each.parameter for each in trained(self._optimizer))

    @torch.no_grad()
    def update(self, *, loss_scale: float = 1.0) -> None:
        """Makes this step's gradients the next step's direction. Call it once per step, before ``optimizer.step()``.

        The gradients are taken as they are: so after ``scaler.unscale_`` and after clipping, if there is any. Where one
        is infinite or nan, so that an AMP step is left out, the next step is not extrapolated.

        Args:
            loss_scale: for ``"local"`` with a GradScaler, ``scaler.get_scale()``: those gradients are taken while
                they are still multiplied by it.
        """
        self._unseen = False
        if not self.active:
            return
        self._step += 1
        if not self.active:
            self.stop()
        elif not self._noisy:
            self._gradients = self._next_direction(loss_scale)

    def stop(self) -> None:
        """Ends the extrapolation: steps are plain from here on, and what was kept for them is let go."""
        self._stopped = True
        self._gradients = {}
        if self._local is not None:
            self._local.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the next steps depend on: numbers, a string and, by parameter, tensors.

        Those of sharded parameters are DTensors; so are, under DDP with ``"local"``, the gradients of all workers, of
        shape ``(workers, ...)``. What is not sharded is the same on every worker.
        """
        parameters = {each.index: each.parameter for each in trained(self._optimizer)}
        return {
            "direction": self.direction,
            "step": self._step,
            "stopped": self._stopped,
            "gradients": {
                index: self._to_keep(gradient.clone(), parameters.get(index))
                for index, gradient in self._gradients.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken, between two optimizer steps.

        Args:
            state: its tensors may also be whole, where they were sharded.

        Raises:
            ValueError: for the state of something else, of another direction, or of other parameters.
        """
        if missing := {"direction", "step", "stopped", "gradients"} - set(state):
            raise ValueError(f"not the state of an Extrapolation: {sorted(missing)} missing")
        if state["direction"] != self.direction:
            raise ValueError(f"direction={self.direction!r}, but the state is of {state['direction']!r}: use the same")
        parameters = {each.index: each.parameter for each in trained(self._optimizer)}
        gradients = {}
        for index, kept in state["gradients"].items():
            parameter = parameters.get(index)
            if parameter is None or kept.shape not in self._shapes(parameter):
                found = "is not trained" if parameter is None else f"has the shape {tuple(parameter.shape)}"
                raise ValueError(
                    f"the state has a gradient of shape {tuple(kept.shape)} for parameter {index} of the optimizer, "
                    f"which {found}: give the optimizer the same parameters in the same order, on as many workers"
                )
            gradients[index] = self._from_kept(kept, parameter)
        self._step, self._stopped = int(state["step"]), bool(state["stopped"])
        self._gradients = gradients
        self._unseen = False

    @property
    def _workers(self) -> DeviceMesh | None:
        return None if self._local is None else self._local.mesh

    def _shapes(self, parameter: Tensor) -> list[torch.Size]:
        """Returns which shapes a kept gradient may have."""
        workers = self._workers
        of_all = [] if workers is None else [torch.Size((workers.size(), *parameter.shape))]
        return [parameter.shape, *of_all]

    def _to_keep(self, gradient: Tensor, parameter: Tensor | None) -> Tensor:
        if parameter is not None and is_sharded(parameter):
            return part_of(gradient, parameter)
        return gradient if self._workers is None else one_each(gradient, self._workers)

    @torch.no_grad()
    def _from_kept(self, kept: Tensor, parameter: Tensor) -> Tensor:
        if is_sharded(parameter):
            kept = aligned(kept, parameter) if is_sharded(kept) else shard_like(kept.to(parameter.device), parameter)
        if self._workers is not None and kept.shape != parameter.shape:
            kept = own_part(kept)[0] if is_sharded(kept) else kept[self._workers.get_local_rank()]
        return own_part(kept).to(parameter.device, copy=True)

    @property
    def _noisy(self) -> bool:
        return self.direction == "noise"

    @torch.no_grad()
    def _shift(self, moved: Sequence[Trained]) -> None:
        if self._noisy:
            for each in moved:
                drawn = noise(each.parameter, seed=self.seed, step=self._step, index=each.index)
                each.weight.sub_(own_part(drawn), alpha=self.radius)
            return
        for sign in (1.0, -1.0):
            some = [each for each in moved if each.sign == sign]
            if some:
                gradients = [self._gradients[each.index] for each in some]
                torch._foreach_add_([each.weight for each in some], gradients, alpha=-sign * self.radius)

    def _next_direction(self, loss_scale: float) -> dict[int, Tensor]:
        """Returns copies of the gradients; zeros where the step will be left out."""
        reached = [each for each in trained(self._optimizer) if each.parameter.grad is not None]
        gradients = {each.index: each.gradient for each in reached}
        finite = all_finite(gradients.values())
        if self._local is not None:
            own = self._local.take()
            gradients = {e.index: own[e.parameter].div(loss_scale) for e in reached if e.parameter in own}
            finite = finite & all_finite(gradients.values()).to(finite.device)
        finite = true_everywhere(finite, [each.parameter for each in reached])
        # Not an `if`: reading the flag would make every step wait for the device.
        flags = {device: finite.to(device) for device in {gradient.device for gradient in gradients.values()}}
        return {index: torch.where(flags[each.device], each, 0.0) for index, each in gradients.items()}

    def _before_step(self) -> None:
        """Told by the optimizer; what is refused here would go wrong without a word."""
        if self._ahead:
            raise RuntimeError(
                "the optimizer steps while the weights are ahead, which would be undone: "
                "call optimizer.step() after the block of shifted()"
            )
        if self._unseen:
            raise RuntimeError("call extrapolation.update() before optimizer.step(), so that there is a next direction")


def _check(model: nn.Module, optimizer: Any, direction: str) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer is a {type(optimizer).__name__}, not a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS computes gradients at several places in a step of its own, which extrapolation would move: "
            "use another optimizer"
        )
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    if "FullyShardedDataParallel" in kinds:
        raise ValueError("FullyShardedDataParallel keeps its weights where they cannot be moved: use fully_shard")
    sharded = any(is_sharded(each) for group in optimizer.param_groups for each in group["params"])
    if sharded and direction == "local":
        raise ValueError(
            "direction='local' needs this worker's gradient as a whole, which sharded parameters never have: "
            "use direction='past', or DistributedDataParallel"
        )


def _local_gradients(model: nn.Module, reduce: Reduce | None) -> LocalGradients:
    from ecograph.passes.extrapolation.local_gradients import local_gradients

    return local_gradients(model, reduce)


def _watch(optimizer: Optimizer, extrapolation: Extrapolation) -> None:
    """Has the optimizer ask before each step, for as long as there is somebody to ask."""
    found = weakref.ref(extrapolation)

    def before_step(*_: Any) -> None:
        asked = found()
        if asked is not None:
            asked._before_step()

    optimizer.register_step_pre_hook(before_step)
