"""Batches on their way from the loader to the model: checked, grouped, moved to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ecograph.loop.lengths import length

# For inputs of a type, or None for a single one: the option of the loop, and how it calls the model.
_CALLS: dict[type | None, tuple[str, str]] = {
    None: ("pair", "model(inputs)"),
    tuple: ("args", "model(*inputs)"),
    dict: ("kwargs", "model(**inputs)"),
}


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, where batches must go.

    Raises:
        ValueError: if the model has no parameters.
    """
    for parameter in model.parameters():
        return parameter.device
    raise ValueError(f"{type(model).__name__} has no parameters, so there is nothing to train")


def pairs(
    loader: Iterable[Any], device: torch.device, *, inputs_are: type | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yield the (inputs, targets) of a loader, on the device.

    Args:
        loader: gives batches of two parts.
        device: where to.
        inputs_are: tuple or dict, for models with several inputs. None, for models that are given one.

    Raises:
        ValueError: if the loader is empty, or a batch is something else than was said.
    """
    for batch in batches(loader, device):
        if isinstance(batch, Mapping):
            raise ValueError('a batch is a dict: TrainingLoop(batch="dict") calls model(**batch)')
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"a {type(batch).__name__}"
            raise ValueError(
                f"a batch is {what} where (inputs, targets) is needed: let the data set give such pairs; "
                'several inputs as ((first, second), targets), with TrainingLoop(batch="args")'
            )
        inputs, targets = batch
        _check_inputs(inputs, inputs_are)
        yield inputs, targets


def batches(loader: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Yield the batches of a loader, on the device.

    Raises:
        ValueError: if the loader is empty.
    """
    for batch in _not_empty(loader):
        yield to_device(batch, device)


def grouped(loader: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` batches, as they come from the loader; the last list may be shorter.

    Raises:
        ValueError: if the loader is empty.
    """
    iterator = iter(_not_empty(loader))
    while group := list(islice(iterator, size)):
        yield group


def to_device(batch: Any, device: torch.device) -> Any:
    """Return `batch` with every tensor in it on `device`; tuples, lists and dicts may be nested."""
    if isinstance(batch, Tensor):
        # A copy towards the CPU that does not block can be read before it has arrived.
        return batch.to(device, non_blocking=device.type != "cpu")
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if hasattr(batch, "to"):  # graphs, packed sequences
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def batch_size(batch: Any) -> int:
    """Return the number of samples in a batch or a part of one: the first dimension of its first tensor.

    Raises:
        ValueError: if there is no tensor in it.
    """
    sizes = _sizes(batch)
    for size in sizes:
        return size
    raise ValueError(f"a batch has no tensor to count its samples by: {batch!r}")


def loss_of(outputs: Any, batch: Any, loss_fn: Callable[..., Tensor] | None) -> Tensor:
    """Return `loss_fn(outputs, batch)`; or, with no loss_fn, the loss that the model computed itself.

    Hugging Face models do that for a batch with labels.

    Raises:
        ValueError: if there is neither.
    """
    if loss_fn is not None:
        return loss_fn(outputs, batch)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor):
        raise ValueError(
            'the model returned no loss: put "labels" into the batches, or give a loss_fn(outputs, batch)'
        )
    return loss


def _not_empty(loader: Iterable[Any]) -> Iterator[Any]:
    may_be_empty = getattr(loader, "may_be_empty", False)  # what a resumed epoch has left
    count = 0
    for batch in loader:
        count += 1
        yield batch
    if count == 0 and not may_be_empty:
        raise ValueError(
            "a loader gave no batches: is the data set empty, or smaller than one batch with drop_last=True? "
            "A generator is used up after one epoch: give a DataLoader or a list"
        )
    guesses = isinstance(getattr(loader, "dataset", None), IterableDataset)
    said = None if guesses else length(loader)
    if said is not None and said != count and not may_be_empty:
        raise ValueError(
            f"a loader has {said} batches by its len(), and gave {count}: schedules and progress are planned by its "
            "length, so the two must agree"
        )


def _check_inputs(inputs: Any, inputs_are: type | None) -> None:
    found = tuple if isinstance(inputs, tuple | list) else dict if isinstance(inputs, Mapping) else None
    if found is inputs_are:
        return
    option, call = _CALLS[found]
    raise ValueError(
        f'the inputs of a batch are a {type(inputs).__name__}: TrainingLoop(batch="{option}") calls {call}'
    )


def _sizes(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor):
        yield batch.shape[0] if batch.ndim else 1
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _sizes(value)
    elif isinstance(batch, tuple | list):
        for value in batch:
            yield from _sizes(value)
