"""Whole trainings with ONNX Runtime: epochs, schedule, validation, skipped epochs, checkpoints, history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor, nn

from ecograph.loop import History
from ecograph.loop.progress import Progress
from ecograph.schedule import Scheduler

if TYPE_CHECKING:
    from ecograph.export.trainer import OrtTrainer


def fit(
    trainer: OrtTrainer,
    train_loader: Iterable[Any],
    *,
    epochs: int,
    val_loader: Iterable[Any] | None = None,
    passes: Sequence[Any] = (),
    metric: str | None = None,
    lr: Callable[[int], float] | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> History:
    """Trains for some epochs, with the drop rates of the exported model's schedule.

    Args:
        trainer: to train.
        train_loader: batches ``(inputs, targets)`` or ``(input, input, ..., targets)``; where the model computes its
            own loss, its inputs.
        epochs: how many.
        val_loader: evaluated after each epoch.
        passes: passes that skip epochs: ``[ecograph.passes.GradSamp(every=4)]``.
        metric: ``"accuracy"`` for that of the validation.
        lr: the learning rate of a step, counted from 0; without it, the trainer's stays as it is. The steps of a
            skipped epoch count, unless the pass says ``advance_lr=False``.
        progress: show a progress bar.
        checkpoint: a file that is written after each epoch.

    Returns:
        The history, as of a :class:`ecograph.TrainingLoop`.

    Raises:
        ValueError: for options that make no sense, and a loader without batches.
        NonFiniteLossError: where the loss becomes nan or infinite.
    """
    if metric not in (None, "accuracy"):
        raise ValueError(f"metric={metric!r}: give 'accuracy', or leave it out")
    samplers = [_sampler(pass_, epochs) for pass_ in passes]
    scheduler = None
    steps_per_epoch = len(train_loader) if hasattr(train_loader, "__len__") else 0  # type: ignore[arg-type]
    if steps_per_epoch == 0 and (trainer.rates or lr is not None):
        raise ValueError("train_loader has no batches, or no length: a schedule over epochs needs one")
    if trainer.rates:
        scheduler = Scheduler(trainer, epochs=epochs, steps_per_epoch=steps_per_epoch)
    waits = any(not getattr(pass_, "advance_lr", True) for pass_ in passes)
    step = 0  # of the learning rate's schedule
    history = History()
    with Progress(epochs, train_loader, shown=progress) as bar:
        for epoch in range(epochs):
            started = time.perf_counter()
            loss = None
            if _skipped(trainer, samplers, epoch):
                history.note(f"skipped by {type(passes[0]).__name__}")
                if scheduler is not None:
                    scheduler.skip_epoch()
                bar.skip(epoch)
                step += 0 if waits else steps_per_epoch
            else:
                loss = _train(trainer, train_loader, scheduler, lr, step, bar, epoch)
                step += steps_per_epoch
            val_loss, values = None, cast(dict[str, Any], {})
            if val_loader is not None:
                val_loss, accuracy = evaluate(trainer, val_loader, accuracy=metric == "accuracy")
                values = {} if metric is None else {"val_accuracy": accuracy}
            seconds = time.perf_counter() - started
            history.record(epoch, train_loss=loss, val_loss=val_loss, lr=trainer.lr, seconds=seconds, **values)
            if checkpoint is not None:
                trainer.save(checkpoint)
    return history


def _train(
    trainer: OrtTrainer,
    loader: Iterable[Any],
    scheduler: Scheduler | None,
    lr: Callable[[int], float] | None,
    step: int,
    bar: Progress,
    epoch: int,
) -> float:
    """Trains for one epoch and returns the mean loss over its samples."""
    total, count = 0.0, 0
    for batch in loader:
        if lr is not None:
            trainer.lr = lr(step)
        inputs, targets = _split(trainer, batch)
        loss = trainer.train_step(*inputs, targets=targets)
        samples = len(inputs[0])
        total, count, step = total + loss * samples, count + samples, step + 1
        bar.update(epoch, loss)
        if scheduler is not None:
            scheduler.step()
    if count == 0:
        raise ValueError("train_loader gives no batches: check its data set and drop_last")
    return total / count


def evaluate(
    trainer: OrtTrainer, loader: Iterable[Any], *, accuracy: bool = False
) -> tuple[float | None, float | None]:
    """Returns the mean loss over the samples of a loader and, where asked for, the share that is recognised.

    Raises:
        ValueError: for the accuracy of a loss that has no classes.
    """
    if accuracy and trainer.manifest.classes is None:
        raise ValueError(f"the accuracy of the loss {trainer.manifest.loss!r} is not defined: leave metric out")
    total, right, labels, count = 0.0, 0, 0, 0
    for batch in loader:
        inputs, targets = _split(trainer, batch)
        loss, output = trainer.eval_step(*inputs, targets=targets)
        count += len(inputs[0])
        total += loss * len(inputs[0])
        if accuracy:
            found = output.argmax(-1 if trainer.manifest.loss == "token_cross_entropy" else 1)
            right, labels = right + int((found == np.asarray(targets)).sum()), labels + found.size
    return (total / count if count else None), (right / labels if labels else None)


def _split(trainer: OrtTrainer, batch: Any) -> tuple[list[Any], Any]:
    """Returns the inputs and the targets of a batch."""
    values = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    return (values[:-1], values[-1]) if trainer.manifest.has_targets else (values, None)


def _sampler(pass_: Any, epochs: int) -> Any:
    make = getattr(pass_, "sampler", None)
    if make is None:
        name = type(pass_).__name__
        raise ValueError(f"{name} cannot be used with ONNX Runtime: give passes that skip epochs, such as GradSamp()")
    return make(epochs)


def _skipped(trainer: OrtTrainer, samplers: Sequence[Any], epoch: int) -> bool:
    """Begins an epoch for the passes that may skip it; where one does, the weights have moved."""
    if not samplers:
        return False
    mirror = _Mirror(trainer)
    skipped = [sampler.on_epoch_start(mirror, epoch) for sampler in samplers]
    if any(skipped):
        trainer.load_parameters({name: p.detach() for name, p in mirror.named_parameters()})
    return any(skipped)


class _Mirror(nn.Module):
    """The trainer's parameters as PyTorch's, under their own names; a copy."""

    def __init__(self, trainer: OrtTrainer) -> None:
        super().__init__()
        state: dict[str, Tensor] = trainer.state_dict()
        for name in trainer.manifest.parameters:
            self._parameters[name] = nn.Parameter(state[name])  # names with dots, as in the model
