"""What a job will cost, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ecograph.cost.estimate import PlannedRun, estimate, plan_run, skipped_epochs
from ecograph.tools.data.loaders import first_batch
from ecograph.tools.jobs.plan import Planned
from ecograph.tools.training import Course
from ecograph.tools.training.ready import model_inputs


def estimate_job(planned: Planned, device: str = "auto") -> PlannedRun:
    """Estimates the whole training of a job, from a step on its first batch.

    Args:
        planned: the job, whose rates were announced.
        device: for which device, by ``find_device``.

    Raises:
        ValueError: for a device that there is not, data without a length, and a step that cannot be recorded.
        Exception: whatever the model or the loss raises without data.
    """
    loop, ready, comes_to = planned.loop, planned.ready, planned.job.energy
    batches = replace(Course.of(loop), accumulate=1).steps_per_epoch(ready.train_loader)
    if not batches:
        raise ValueError("the training data does not tell how many batches it has")
    batch = first_batch(ready.train_loader)
    step = estimate(
        ready.model,
        model_inputs(batch),
        device=device,
        loss=None if ready.loss_fn is None else _loss_of(ready.loss_fn, batch),
        optimizer=ready.optimizer,
        amp=loop.amp,
    )
    return plan_run(
        step,
        epochs=loop.epochs,
        batches_per_epoch=batches,
        accumulate=loop.accumulate,
        skipped=len(skipped_epochs(loop.passes, loop.epochs)),
        grid=comes_to.grid,
        price=comes_to.price,
        currency=comes_to.currency,
    )


def _loss_of(loss_fn: Any, batch: Any) -> Any:
    """Returns the loss as a function of what the model returns, on targets of which only shapes are known."""
    targets = batch if isinstance(batch, Mapping) else batch[1]

    def loss(outputs: Any) -> Tensor:
        device = next((leaf.device for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)), None)

        def blank(tensor: Tensor) -> Tensor:
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)

        found: Tensor = loss_fn(outputs, pytree.tree_map_only(Tensor, blank, targets))
        return found

    return loss
