"""What a job will cost, before it is run."""

from __future__ import annotations

from dataclasses import replace

from ecograph.cost.estimate import PlannedRun
from ecograph.tools.jobs.plan import Planned
from ecograph.tools.training import Course


def estimate_job(planned: Planned, device: str = "auto") -> PlannedRun:
    """Estimates the whole training of a job, from a step on its first batch.

    Args:
        planned: the job.
        device: for which device, by ``find_device``.

    Raises:
        ValueError: for a device that there is not, data without a length, and a step that cannot be recorded.
        Exception: whatever the model or the loss raises without data.
    """
    loop, ready, comes_to = planned.loop, planned.ready, planned.job.energy
    batches = replace(Course.of(loop), accumulate=1).steps_per_epoch(ready.train_loader)
    if not batches:
        raise ValueError("the training data does not tell how many batches it has")
    return loop.estimate(
        ready.model,
        ready.optimizer,
        ready.loss_fn,
        ready.train_loader,
        device=device,
        batches_per_epoch=batches,
        grid=comes_to.grid,
        price=comes_to.price,
        currency=comes_to.currency,
    )
