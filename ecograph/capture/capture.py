"""The front door of capture: which way of capturing, and what to do when it fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ecograph.capture import dynamo, symbolic
from ecograph.capture.copying import copy_module
from ecograph.capture.graph import Capture, Part
from ecograph.capture.inputs import Inputs, device_of, move, normalize
from ecograph.capture.quiet import first_line, silent, untouched_random_state


def capture(model: nn.Module, example_inputs: Any = None) -> Capture:
    """Captures the graphs that ``model`` runs in training mode, without leaving a trace on it.

    Args:
        model: any module, on any device including ``meta``; its parameters are not read.
        example_inputs: what the model is called with: a tensor, a tuple ``(x, ...)``, a dict of keyword
            inputs, or a pair ``(args, kwargs)``. Values do not matter, shapes do. Without them the graphs
            know no shapes.

    Returns:
        The graphs, and for every part of the model how it was captured and why it was cut there.

    Raises:
        ValueError: where the example inputs do not fit the model.
    """
    inputs = normalize(example_inputs)
    with untouched_random_state(model), silent(), torch.inference_mode(False):
        if inputs is None:
            return symbolic.capture(model)
        try:
            captured = dynamo.capture(model, inputs)
        except Exception as error:
            reason = first_line(error)
        else:
            if captured.cut:
                symbolic.complete(model, captured)
            return captured
        _check_fit(model, inputs)
        captured = symbolic.capture(model)
    captured.parts.insert(0, Part("", "none", f"Dynamo could not capture it ({reason}); traced symbolically"))
    return captured


def _check_fit(model: nn.Module, inputs: Inputs) -> None:
    """Runs a copy once, to tell inputs that do not fit from a model that Dynamo cannot take."""
    trial = copy_module(model).train()
    args, kwargs = move(inputs, device_of(model))
    try:
        with torch.no_grad():
            trial(*args, **kwargs)
    except Exception as error:
        shapes = {
            str(key): tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            for key, value in (*enumerate(args), *kwargs.items())
        }
        raise ValueError(
            f"example_inputs do not fit {type(model).__name__}: called with {shapes} it raises "
            f"{first_line(error)}. Give inputs that model(*args, **kwargs) accepts"
        ) from error
