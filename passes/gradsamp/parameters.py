"""The parameters that are sampled: every trainable one once, under a name that does not depend on wrappers."""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ecograph.passes.gradsamp import sharded

# What torch.compile and activation checkpointing put into the names of the modules that they wrap.
_WRAPPER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module)\.")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trainable parameters by name: frozen ones not at all, tied ones once.

    Args:
        model: also inside DDP or ``torch.compile``, or sharded by ``fully_shard``.

    Raises:
        ValueError: for something else than a module, and for one that is sharded by the older FSDP wrapper.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    sharded.prepare(model)
    prefix = _prefix(model)
    return {
        _WRAPPER.sub("", name.removeprefix(prefix)): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def snapshot(parameters: dict[str, nn.Parameter], where: str) -> dict[str, Tensor]:
    """Returns copies of parameters.

    Args:
        parameters: by name.
        where: ``"device"``: where they are; or ``"cpu"``.
    """
    if where == "cpu":
        return {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def _prefix(model: nn.Module) -> str:
    """Returns what DDP and ``torch.compile`` around the model put before every name."""
    prefix = ""
    while True:
        if isinstance(model, (DistributedDataParallel, DataParallel)):
            model, prefix = model.module, f"{prefix}module."
        elif "_orig_mod" in model._modules:
            model, prefix = model.get_submodule("_orig_mod"), f"{prefix}_orig_mod."
        else:
            return prefix
