"""The training loop that all benchmarks of quality share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from steps import DEVICE
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import update_bn

import ecograph
from ecograph.passes.extrapolation import Extrapolation
from ecograph.passes.gradsamp import EpochSampler
from tasks.rate import learning_rate
from tasks.task import Task

#: Batches on which the statistics of batch norms are estimated.
RECALIBRATION = 16


@dataclass
class Loop:
    """A training of a task.

    Attributes:
        task: what is trained.
        model: in training mode, with its passes.
        optimizer: at its peak learning rate.
        batches: without end.
        steps: optimizer steps, over which the learning-rate schedule is stretched.
        scheduler: of the model's passes.
        sampler: that skips epochs.
        extrapolation: of the point where gradients are taken.
        free: channels_last and bf16.
        forward: what is called in place of the model, such as a compiled one.
        losses: of all steps, once they are taken.
        aside: CPU seconds that belong to epochs or to the whole, and not to steps.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    batches: Iterator[tuple[Tensor, Tensor]]
    steps: int
    scheduler: ecograph.Scheduler | None = None
    sampler: EpochSampler | None = None
    extrapolation: Extrapolation | None = None
    free: bool = False
    forward: Callable[..., Any] | None = None
    losses: list[float] = field(default_factory=list)
    aside: float = 0.0

    def run(self) -> None:
        """Takes all steps."""
        rate = LambdaLR(self.optimizer, partial(learning_rate, total=self.steps))
        for step in range(self.steps):
            epoch, within = divmod(step, self.task.steps_per_epoch)
            if within == 0 and self.sampler is not None:
                started = time.process_time()
                self.sampler.on_epoch_start(self.model, epoch)
                self.aside += time.process_time() - started
            if self.sampler is None or self.sampler.trains(epoch):
                self._step()
            rate.step()  # the schedule goes on in an epoch that is skipped
            if self.scheduler is not None:
                self.scheduler.step()

    def recalibrate(self) -> None:
        """Estimates the statistics of batch norms anew, on the plain model; sliced steps leave those of slices."""
        started = time.process_time()
        self.model = ecograph.restore(self.model)
        update_bn([next(self.batches)[0].to(DEVICE) for _ in range(RECALIBRATION)], self.model)
        self.aside += time.process_time() - started

    def _step(self) -> None:
        inputs, targets = next(self.batches)
        if self.free and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        with nullcontext() if self.extrapolation is None else self.extrapolation.shifted():
            with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=self.free):
                forward = self.model if self.forward is None else self.forward
                outputs = forward(inputs.to(DEVICE))
            loss = self.task.loss(outputs.float() if self.free else outputs, targets.to(DEVICE))
            loss.backward()  # type: ignore[no-untyped-call]
        if self.extrapolation is not None:
            self.extrapolation.update()
        if self.task.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.task.clip)
        self.optimizer.step()
        self.losses.append(loss.item())
