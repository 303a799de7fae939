"""Which devices this process computes on, and waiting for them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

import torch

Devices = str | torch.device | Sequence[str | torch.device] | None


def check_devices(devices: Devices) -> tuple[torch.device, ...] | None:
    """Returns the accelerators among `devices`; None for None, which means those in use.

    Raises:
        ValueError: for something that is not the name of a device.
    """
    if devices is None:
        return None
    try:
        several = [devices] if isinstance(devices, str | torch.device) else list(devices)
        found = [torch.device(each) for each in several]
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'devices={devices!r} does not name devices: give "cpu", "cuda:0" or a list of such; leave it out for '
            "all that this process computes on"
        ) from error
    indexed = [
        torch.device(each.type, torch.cuda.current_device()) if each.type == "cuda" and each.index is None else each
        for each in found
    ]
    return tuple(dict.fromkeys(each for each in indexed if each.type != "cpu"))


def in_use() -> tuple[torch.device, ...]:
    """Returns the accelerators on which this process has tensors. Asks, and opens none."""
    found: list[torch.device] = []
    if _cuda_is_open():
        found = [
            torch.device("cuda", index)
            for index in range(torch.cuda.device_count())
            if torch.cuda.memory_reserved(index)
        ]
    if torch.backends.mps.is_available() and torch.mps.current_allocated_memory():
        found.append(torch.device("mps"))
    return tuple(found)


def wait_for(devices: Iterable[torch.device]) -> None:
    """Waits until devices have done what they were given, so that a window has in it what was started in it."""
    for each in devices:
        if each.type == "cuda" and _cuda_is_open():
            torch.cuda.synchronize(each)
        elif each.type == "mps":
            torch.mps.synchronize()


def names_of(device: torch.device) -> set[str]:
    """Returns what meters may call a device: "cuda:0", and its UUID "GPU-..." where it has one."""
    names = {str(device) if device.type == "cuda" else device.type}
    if device.type == "cuda" and _cuda_is_open():
        names.add(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return names


def _cuda_is_open() -> bool:
    """Whether this process has used CUDA; to ask more would open it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def cpu_seconds() -> float:
    """Returns the CPU time of this process over all threads, and of its children that have ended.

    So the workers of a DataLoader count when they end, with all of their time: in most cases, with the epoch.
    """
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
