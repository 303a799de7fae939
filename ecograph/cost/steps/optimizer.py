"""The optimizer's step: the same few operations for every parameter."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
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


def as_on_gpu(make: MakeOptimizer) -> MakeOptimizer:
    """Returns an optimizer as it runs where parameters are on a GPU: there, torch takes them together by itself.

    Args:
        make: as in ``record_optimizer``; a function that is neither a class nor a ``partial`` of one stays as it is.
    """
    if isinstance(make, Optimizer):
        kind: Any = type(make)
        make = partial(kind, **_options(make))
    whole: Any = make.func if isinstance(make, partial) else make
    if not (isinstance(whole, type) and any(_decides_by_device(each) for each in whole.__mro__)):
        return make
    given = make.keywords if isinstance(make, partial) else {}
    chosen = any(given.get(name) is not None for name in ("foreach", "fused"))
    return make if chosen else partial(make, foreach=True)


def _decides_by_device(kind: type) -> bool:
    """Whether a class of ``torch.optim`` asks torch where its parameters are; Adafactor, say, does not."""
    return hasattr(sys.modules[kind.__module__], "_default_to_fused_or_foreach")


def _together(make: MakeOptimizer) -> bool:
    """Whether one call is made for all parameters."""
    options = make.defaults if isinstance(make, Optimizer) else getattr(make, "keywords", {})
    return bool(options.get("foreach") or options.get("fused"))


def _options(optimizer: Optimizer) -> dict[str, Any]:
    """Returns the options that an optimizer was made with; not all of its defaults are: ``decoupled_weight_decay``."""
    known = signature(type(optimizer).__init__).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in known}


def _first_of_each(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    found: dict[Any, nn.Parameter] = {}
    for parameter in parameters:
        found.setdefault((tuple(parameter.shape), parameter.dtype, parameter.device), parameter)
    return list(found.values())


def _made(make: MakeOptimizer, parameters: list[nn.Parameter]) -> Optimizer:
    if isinstance(make, Optimizer):
        kind: Any = type(make)
        made: Optimizer = kind(parameters, **_options(make))
        return made
    found: Optimizer = make(parameters)
    return found
