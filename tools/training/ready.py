"""From names and numbers to the objects that a training loop is called with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import ecograph
from ecograph.loop.first_batch import inputs_of
from ecograph.tools import data, own, ranks, spec
from ecograph.tools.console import no_effect_noted
from ecograph.tools.data.loaders import first_batch, loaders
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.training.course import Course
from ecograph.tools.training.losses import Loss, find_loss
from ecograph.tools.training.optimizers import make_optimizer
from ecograph.tools.training.schedules import make_schedule
from ecograph.tools.training.setup import Setup
from ecograph.tools.training.weights import freeze, load_weights


@dataclass(frozen=True)
class Parts:
    """What takes the place of a model and a loss that have names.

    Attributes:
        build: makes the model.
        loss_fn: of (outputs, targets).
    """

    build: Callable[[], nn.Module]
    loss_fn: Loss


@dataclass(frozen=True)
class Ready:
    """All that a loop is called with, in this order."""

    model: nn.Module
    optimizer: Optimizer
    loss_fn: Loss | None
    train_loader: Any
    val_loader: Any
    lr_scheduler: LRScheduler | None

    def __iter__(self) -> Any:
        """Iterates over the arguments of ``train``."""
        return iter((*vars(self).values(),))


def make_ready(setup: Setup, course: Course, parts: Parts | None = None, *, on: str = "auto") -> Ready:
    """Builds the model, rewrites it, and makes all else; one batch is tried, so that what does not fit is said at once.

    Args:
        setup: what to make.
        course: of the loop it is for.
        parts: in place of the model and the loss of the setup.
        on: the device for which it is decided what pays; by default the one that the training is made for.

    Raises:
        UserError: for whatever in it does not exist or does not fit.
    """
    _seed(setup.seed)
    device = ranks.find_device(setup.device)
    build = spec.find(setup.model).build if parts is None else parts.build
    found = data.find(setup.data)
    loss_name = setup.loss or found.loss
    if setup.loss is None and course.own_loss:
        loss_name = "model"
    loss_fn = find_loss(loss_name) if parts is None else parts.loss_fn
    if loss_fn is None and not course.own_loss:
        raise UserError('loss "model" needs a loop with batch="dict": a model returns its loss where a batch is a dict')

    train_loader, val_loader = loaders(found, setup.batching, seed=setup.seed)
    model = build().to(device)
    if setup.weights is not None:
        load_weights(model, Path(setup.weights))
    if setup.freeze:
        freeze(model, setup.freeze)
    if setup.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = _on(first_batch(train_loader), device)
    _try(setup, course, model, loss_fn, loss_name, batch, device)
    if setup.passes:
        with user_errors(), no_effect_noted():
            inputs, passes, skip = inputs_of(batch), setup.passes, setup.skip
            ecograph.optimize(model, example_inputs=inputs, passes=passes, skip=skip, device=on, amp=course.amp)
    elif setup.skip:
        raise UserError(f"skip={list(setup.skip)} has no effect: there is no pass that rewrites the model")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(setup.optimizer, trained, setup.optimizer_options)
    schedule = make_schedule(
        setup.schedule,
        optimizer,
        setup.schedule_options,
        lr_step=course.lr_step,
        epochs=course.epochs,
        steps_per_epoch=course.steps_per_epoch(train_loader),
    )
    return Ready(model, optimizer, loss_fn, train_loader, val_loader, schedule)


def _seed(seed: int) -> None:
    """Seeds every generator that a model, a data set or a loop may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _on(batch: Any, device: torch.device) -> Any:
    from ecograph.loop.batches import to_device

    return to_device(batch, device)


def _try(
    setup: Setup,
    course: Course,
    model: nn.Module,
    loss_fn: Loss | None,
    loss_name: str,
    batch: Any,
    device: torch.device,
) -> None:
    """Evaluates the model on a batch, by the loop's own function, before the first step is taken on it."""
    if course.own_loss and not isinstance(batch, Mapping):
        raise UserError(
            f'data {setup.data}: a batch is a {type(batch).__name__}, and the loop, with batch="dict", needs a dict'
        )
    if course.evaluate is None:
        return
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            course.evaluate(model, loss_fn, [batch], device)
    except Exception as error:
        raise UserError(
            f"model {setup.model}, data {setup.data} and loss {loss_name} do not fit together: {own.where(error)}"
        ) from error
    model.train()
