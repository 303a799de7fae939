"""What ``optimize`` refuses, each with the sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ecograph.record import ATTRIBUTE


def check_model(model: Any, *, says: str = "optimize") -> None:
    """Raises ValueError for what cannot be optimized.

    Args:
        model: what the user gave.
        says: the function that was called.
    """
    if not isinstance(model, nn.Module):
        hint = ": pass an instance, model()" if isinstance(model, type) else ""
        raise ValueError(f"{says} needs a torch.nn.Module, not {type(model).__name__}{hint}")
    for name, module in model.named_modules():
        if isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            kind = type(module).__name__
            raise ValueError(f"{name or 'the model'} is wrapped in {kind}: optimize first, then wrap it")
    if _is_fsdp(model):
        raise ValueError("the model is sharded by FSDP: optimize first, then shard it")
    ours = ATTRIBUTE in model.__dict__ and "compile" in model.__dict__[ATTRIBUTE].switched  # by recipe="auto"
    if isinstance(model, torch._dynamo.OptimizedModule) or (model._compiled_call_impl is not None and not ours):
        raise ValueError("the model is compiled: optimize first, then torch.compile it")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the model is a TorchScript module, which cannot be rewritten: optimize the Python model")
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no parameters: there is nothing to train")
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise ValueError(f"{name} is not initialized yet: run the model once on a batch, then optimize")


def _is_fsdp(model: nn.Module) -> bool:
    """Whether any part is sharded by FSDP, without importing it where it is not in use."""
    kinds = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    return not kinds.isdisjoint({"FullyShardedDataParallel", "FSDPModule"})


def check_names(model: nn.Module, names: Sequence[str]) -> None:
    """Raises ValueError for a name in ``skip`` that the model does not have."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"skip={names!r}: give a list of names, such as skip=['{names}']")
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    known |= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name in names:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(str(name), known, 3, 0.4)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"skip: {type(model).__name__} has no layer {name!r}{hint}")
