"""The optimizer's step: the same few operations for every parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from ecograph.cost.steps.op import Op
from ecograph.cost.steps.traffic import tensors

if TYPE_CHECKING:
    from ecograph.cost.steps.recorder import Recorder

#: What makes an optimizer of parameters: its class, or a function that knows the options too.
MakeOptimizer = Any


def record_optimizer(
    recorder: Recorder, make: MakeOptimizer, parameters: Iterable[nn.Parameter]
) -> tuple[list[Op], int]:
    """Returns what a step of an optimizer runs once its state is there, and the bytes of that state.

    Args:
        recorder: that writes down what runs; it is active, and the parameters are fake.
        make: a class of ``torch.optim``, a function that returns an optimizer of a list of parameters, or an optimizer,
            whose class and options count.
        parameters: of the model; those without a gradient are left alone.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return [], 0
    alike = Counter((tuple(p.shape), p.dtype, p.device) for p in trained)
    single = all(p.device.type == "cpu" for p in trained) and not _together(make)
    chosen = _first_of_each(trained) if single else trained
    ops: list[Op] = []
    state = 0
    for group in [[each] for each in chosen] if single else [chosen]:
        count = alike[tuple(group[0].shape), group[0].dtype, group[0].device] if single else 1
        found, size = _step(recorder, _made(make, group), group)
        ops += [replace(op, count=count) for op in found]
        state += count * size
    return ops, state


def _step(recorder: Recorder, optimizer: Optimizer, parameters: list[nn.Parameter]) -> tuple[list[Op], int]:
    with recorder.paused():
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()  # makes the state
    before = len(recorder.ops)
    optimizer.step()
    found = [replace(op, phase="optimizer", layer="") for op in recorder.ops[before:]]
    del recorder.ops[before:]
    with recorder.paused():
        kept = tensors(list(optimizer.state.values()))
        optimizer.zero_grad(set_to_none=True)
    return found, sum(tensor.nbytes for tensor in kept)


def _together(make: MakeOptimizer) -> bool:
    """Whether one call is made for all parameters."""
    options = make.defaults if isinstance(make, Optimizer) else getattr(make, "keywords", {})
    return bool(options.get("foreach") or options.get("fused"))


def _first_of_each(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    found: dict[Any, nn.Parameter] = {}
    for parameter in parameters:
        found.setdefault((tuple(parameter.shape), parameter.dtype, parameter.device), parameter)
    return list(found.values())


def _made(make: MakeOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    if isinstance(make, Optimizer):
        kind: Any = type(make)
        # Not all defaults are options: AdamW's decoupled_weight_decay is none.
        known = signature(kind.__init__).parameters
        made: Optimizer = kind(parameters, **{name: each for name, each in make.defaults.items() if name in known})
        return made
    found: Optimizer = make(parameters)
    return found
