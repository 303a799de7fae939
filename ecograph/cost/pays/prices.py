"""Whose prices decide what pays: of the device at hand, or of the one that a training is planned for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from ecograph.cost.devices import Device, Roofline, find_device
from ecograph.cost.devices.find import AUTO
from ecograph.cost.devices.shipped import GENERIC
from ecograph.cost.steps.record import amp_type

#: A GPU that no profile is for is taken for one in the middle.
GPU = "l4"


@dataclass
class Planned:
    """How a model will be trained, as far as that decides what pays.

    Attributes:
        device: that it will be trained on; None for the device at hand.
        amp: the type of products under autocast; None without.
        asked: the device whose prices were asked for; None as long as nobody did.
    """

    device: Device | None = None
    amp: torch.dtype | None = None
    asked: Device | None = None


_planned: ContextVar[Planned | None] = ContextVar("planned", default=None)


@contextmanager
def planned_for(device: str = AUTO, amp: str | None = None) -> Iterator[Planned]:
    """Has what pays be decided as for a training that is planned.

    Args:
        device: by a name that ``find_device`` knows; ``"auto"``: the device that the model is on.
        amp: ``"bf16"`` or ``"fp16"`` for a forward under autocast.

    Raises:
        ValueError: for a device or a precision that there is not.
    """
    made = Planned(None if device == AUTO else find_device(device), amp_type(amp))
    token = _planned.set(made)
    try:
        yield made
    finally:
        _planned.reset(token)


def prices(type: str = "cpu") -> Roofline:
    """Returns the prices that decide what pays: those of the device that a training is planned for.

    Where none is planned, they are of the device at hand: as it was calibrated, or else from datasheets.

    Args:
        type: torch's, of the device that the model is on.

    Warns:
        UserWarning: where the machine's profile cannot be read.
    """
    planned = _planned.get()
    device = _at_hand(type) if planned is None or planned.device is None else planned.device
    if planned is not None:
        planned.asked = device
    return _roofline(device)


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """Returns the type in which a product of float32 tensors will be computed: another one under autocast."""
    planned = _planned.get()
    return dtype if planned is None or planned.amp is None or dtype != torch.float32 else planned.amp


_last: Roofline | None = None


def _roofline(device: Device) -> Roofline:
    """Returns the prices of a device; the last ones are kept, since making them takes time."""
    global _last
    if _last is None or _last.device is not device:
        _last = Roofline(device)
    return _last


def _at_hand(type: str) -> Device:
    if type not in ("cpu", "cuda", "meta"):
        return find_device(GPU)
    try:
        return find_device(type="cuda" if type == "cuda" else "cpu")
    except ValueError as error:
        if type == "cuda":
            return find_device(GPU)
        warnings.warn(f"what pays is judged as on {GENERIC}: {error}", stacklevel=2)
        return find_device(GENERIC)
