"""The most memory that a training step holds at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ecograph.advice.trial import Trial


def peak_bytes(trial: Trial) -> int | None:
    """Returns the peak of a step in bytes: parameters, buffers, optimizer state, gradients and activations.

    Read from CUDA's allocator, or from the events of the CPU's, which the profiler records: what libraries take beside
    it is not in it. The passes act at the rates that take the most. None on other devices.
    """
    with trial.switched():
        peaks = []
        for rates, _ in trial.mix:
            trial.set_rates(rates)
            trial.optimizer.zero_grad(set_to_none=True)
            peaks.append(_peak(trial))
    known = [peak for peak in peaks if peak is not None]
    return max(known) if known else None


def _peak(trial: Trial) -> int | None:
    device = trial.subject.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        others = torch.cuda.memory_allocated(device) - _held(trial)
        trial.step()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - others
    if device.type != "cpu":
        return None
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trial.step()
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most + _held(trial, gradients=False)


def _held(trial: Trial, *, gradients: bool = True) -> int:
    """Returns the bytes that are held between two steps."""
    tensors: list[Any] = [*trial.model.parameters(), *trial.model.buffers()]
    if gradients:
        tensors += [p.grad for p in trial.model.parameters() if p.grad is not None]
    for state in trial.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps from the screen what the profiler's C++ writes there about blocks that were allocated before it began."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
