"""What a whole training will cost, before it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ecograph.capture.inputs import device_of
from ecograph.cost.estimate import PlannedRun, estimate, plan_run, skipped_epochs
from ecograph.loop.batches import batches, pairs, to_device
from ecograph.loop.data import INPUTS_ARE
from ecograph.loop.first_batch import first_batch
from ecograph.loop.lengths import length
from ecograph.record import records
from ecograph.schedule import Scheduler

if TYPE_CHECKING:
    from ecograph.loop.data import Batch
    from ecograph.loop.training_loop import TrainingLoop


def plan_training(
    loop: TrainingLoop,
    model: nn.Module,
    optimizer: Any,
    loss_fn: Callable[..., Any] | None,
    train_loader: Iterable[Any],
    *,
    device: str = "auto",
    batches_per_epoch: int | None = None,
    grid: float | None = None,
    price: float | None = None,
    currency: str = "",
) -> PlannedRun:
    """Estimates a training, from a step on its first batch; see ``TrainingLoop.estimate``."""
    count = length(train_loader) if batches_per_epoch is None else batches_per_epoch
    if count is None:
        raise ValueError("the training data does not tell how many batches it has: give batches_per_epoch")
    batch = first_batch(train_loader)
    skipped = skipped_epochs(loop.passes, loop.epochs)
    with _as_scheduled(loop, model, max(-(-count // loop.accumulate), 1), skipped):
        step = estimate(
            model,
            called_with(batch, loop.batch),
            device=device,
            loss=None if loss_fn is None else _loss_of(loss_fn, batch, loop.batch, model),
            optimizer=optimizer,
            amp=loop.amp,
        )
    return plan_run(
        step,
        epochs=loop.epochs,
        batches_per_epoch=count,
        accumulate=loop.accumulate,
        skipped=len(skipped),
        grid=grid,
        price=price,
        currency=currency,
    )


def called_with(batch: Any, kind: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns what a loop calls the model with for a batch, as ``(args, kwargs)``.

    Raises:
        ValueError: for a batch that is not of this kind.
    """
    here = torch.device("cpu")
    if kind == "dict":
        return (), dict(next(batches([batch], here)))
    inputs, _ = next(pairs([batch], here, inputs_are=INPUTS_ARE.get(kind)))
    if kind == "kwargs":
        return (), dict(inputs)
    return (tuple(inputs) if kind == "args" else (inputs,)), {}


@contextmanager
def _as_scheduled(loop: TrainingLoop, model: nn.Module, steps: int, skipped: Iterable[int]) -> Iterator[None]:
    """Has the passes on a model announce their rates as the loop will, and leaves them as they were."""
    found = records(model)
    if not found or not loop.program.scheduled:
        yield
        return
    rates = [rate for record in found for rate in record.rates]
    before = [(rate.scheduled, rate.state_dict()) for rate in rates]
    mixes = [record.mixes for record in found]
    Scheduler(model, epochs=loop.epochs, steps_per_epoch=steps).announce(list(skipped))
    try:
        yield
    finally:
        for rate, (scheduled, state) in zip(rates, before, strict=True):
            rate.scheduled = scheduled
            rate.load_state_dict(state)
        for record, mix in zip(found, mixes, strict=True):
            record.mixes = mix


def _loss_of(loss_fn: Callable[..., Any], batch: Any, kind: Batch, model: nn.Module) -> Callable[[Any], Tensor]:
    """Returns the loss as a function of what the model returns."""
    place = device_of(model)
    # Moved here, once: to move them is no part of the step. A model on the meta device counts as one on the CPU.
    here = torch.device("cpu") if place is None or place.type == "meta" else place
    targets = to_device(batch if kind == "dict" else batch[1], here)

    def loss(outputs: Any) -> Tensor:
        found: Tensor = loss_fn(outputs, targets)
        return found

    return loss
