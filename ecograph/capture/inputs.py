"""Example inputs, in whichever of the usual forms the user has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def normalize(example_inputs: Any) -> Inputs | None:
    """Returns ``(args, kwargs)`` from a tensor, a tuple of positional inputs or a mapping of keyword inputs.

    Args:
        example_inputs: one tensor, a tuple or list of positional arguments (whose last element may be a dict
            of keyword arguments when it is a pair ``(args, kwargs)``), or a mapping of keyword arguments.

    Raises:
        ValueError: for anything else, and for inputs without a tensor.
    """
    if example_inputs is None:
        return None
    args: tuple[Any, ...]
    if isinstance(example_inputs, torch.Tensor):
        args, kwargs = (example_inputs,), {}
    elif isinstance(example_inputs, Mapping):
        args, kwargs = (), dict(example_inputs)
    elif isinstance(example_inputs, (tuple, list)):
        pair = len(example_inputs) == 2
        if pair and isinstance(example_inputs[0], (tuple, list)) and isinstance(example_inputs[1], Mapping):
            args, kwargs = tuple(example_inputs[0]), dict(example_inputs[1])
        else:
            args, kwargs = tuple(example_inputs), {}
    else:
        raise ValueError(
            f"example_inputs is a {type(example_inputs).__name__}: give a tensor, a tuple of positional "
            "inputs such as (x,), or a dict of keyword inputs such as {'input_ids': ids}"
        )
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        raise ValueError("example_inputs holds no tensor: give what you would pass to model(...)")
    return args, kwargs


def device_of(model: torch.nn.Module) -> torch.device | None:
    """Returns the device of the model's first parameter or buffer, or None where it has neither."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def move(inputs: Inputs, device: torch.device | None) -> Inputs:
    """Returns the inputs with their tensors on ``device``: example inputs may come from a CPU data loader."""
    if device is None:
        return inputs
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), inputs)
    return args, kwargs
