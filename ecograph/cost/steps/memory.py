"""What a step keeps in memory, and how much that is at its highest: from the storages that come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, UntypedStorage

#: Bytes to which the CPU's allocator and CUDA's round up what is asked for.
ALIGNMENT = {"cpu": 64, "cuda": 512}


class Memory:
    """Keeps count of the storages that are alive.

    Attributes:
        live: bytes that were allocated during the step and are in use now.
        peak: the highest that ``live`` has been.
    """

    def __init__(self, known: Iterable[Tensor], freed: Callable[[int], None]) -> None:
        """Begins to count.

        Args:
            known: tensors that were there before the step: parameters, buffers and inputs.
            freed: is told of the key of every storage that goes away.
        """
        self.live = 0
        self.peak = 0
        self._freed = freed
        self._seen = {storage_key(tensor) for tensor in known}

    def add(self, tensors: Sequence[Tensor], beside: int = 0) -> bool:
        """Counts the storages of results, and returns whether one of them is new.

        Args:
            tensors: the results.
            beside: bytes that the last of them holds beside its own.
        """
        any_new = False
        for tensor in tensors:
            key = storage_key(tensor)
            if key in self._seen:
                continue
            any_new = True
            self._seen.add(key)
            storage = tensor.untyped_storage()
            size = _rounded(storage, device_type(tensor)) + beside * (tensor is tensors[-1])
            self.live += size
            weakref.finalize(storage, self._free, key, size).atexit = False
        self.peak = max(self.peak, self.live)
        return any_new

    def take(self, temporary: int) -> None:
        """Counts what was held for a moment beside what is alive now."""
        self.peak = max(self.peak, self.live + temporary)

    def _free(self, key: int, size: int) -> None:
        self.live -= size
        self._seen.discard(key)
        self._freed(key)


def device_type(tensor: Tensor) -> str:
    """Returns the type of a tensor's device, without asking torch for that of a fake one, which takes long."""
    device: torch.device = vars(tensor).get("fake_device") or tensor.device
    return device.type


def storage_key(tensor: Tensor) -> int:
    """Returns what tells the storage of a tensor from all that live beside it."""
    key: int = tensor.untyped_storage()._cdata
    return key


def _rounded(storage: UntypedStorage, device: str) -> int:
    unit = ALIGNMENT.get(device, 1)
    return -(-storage.nbytes() // unit) * unit
