"""Whether a training fits in memory: asked before, because on a CPU there is nobody left to ask afterwards."""

from __future__ import annotations

from pathlib import Path

import torch

from ecograph.loop.first_batch import first_inputs
from ecograph.report_table import human
from ecograph.sweeps.problem import Training


class OutOfMemory(Exception):  # noqa: N818 - it is a finding
    """A training that does not fit."""


def check_fits(training: Training) -> None:
    """Raises :class:`OutOfMemory` where a step will take more memory of the CPU than there is.

    From the recorded step: weights, gradients and activations. A GPU says by itself when it is full.
    """
    model, optimizer, _, loader = training.arguments[:4]
    available = available_bytes()
    device = next((tensor.device.type for tensor in model.parameters()), "cpu")
    if available is None or device != "cpu":
        return
    if sum(parameter.nbytes for parameter in model.parameters()) * 4 + _batch_bytes(loader) * 1000 < available:
        return  # far from full: no need to record the step
    from ecograph.cost.estimate import estimate

    try:
        found = estimate(model, first_inputs(loader), device="generic-cpu", optimizer=optimizer, amp=training.loop.amp)
    except ValueError:  # the step cannot be recorded: then it must be tried
        return
    memory = found.memory_before
    needed = memory.activations + memory.parameters + memory.optimizer
    if needed > available:
        raise OutOfMemory(f"a step needs about {human(round(needed))}B and {human(available)}B are free")


def available_bytes() -> int | None:
    """Returns the memory that can be had on this machine, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for and not to be had."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _batch_bytes(loader: object) -> int:
    from torch import Tensor
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves(first_inputs(loader))
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
