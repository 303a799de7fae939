"""Stops training at a loss that is nan, and finds the layer it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from ecograph.loop.history import History, NonFiniteLossError


class LossWatch:
    """Looks at the loss of each batch before it is differentiated.

    On the CPU at each batch: there it costs nothing, and the weights are still good. On an accelerator at every 50th,
    since each look waits for the device.
    """

    EVERY = 50

    def __init__(self, model: nn.Module, history: History) -> None:
        """Watch the losses of `model`; `history` goes into the error."""
        self._model = model
        self._history = history
        self._looks = 0

    def check(self, loss: Any, inputs: Any) -> None:
        """Say nothing of a finite loss.

        Args:
            loss: of a batch.
            inputs: what the model was called with: one thing, a tuple of arguments, or a dict of them.

        Raises:
            NonFiniteLossError: naming the first layer whose output is not finite for these inputs.
            ValueError: for a loss that is not a tensor.
        """
        if not isinstance(loss, Tensor):
            raise ValueError(f"the loss is {loss!r} where a tensor is needed: what does loss_fn return?")
        self._looks += 1
        if loss.device.type != "cpu" and self._looks % self.EVERY:
            return
        if not bool(torch.isfinite(loss.detach()).all()):
            raise NonFiniteLossError(
                f"the training loss became {loss.detach().flatten()[0].item()} in epoch {len(self._history) + 1}, so "
                f"training was stopped: {source_of_nan(self._model, inputs)}",
                self._history,
            )


def source_of_nan(model: nn.Module, inputs: Any) -> str:
    """Say in words where a loss that is not finite came from.

    Runs the forward once more, without gradients and without leaving a trace in buffers.

    Args:
        model: as it was when the loss was computed.
        inputs: one thing, a tuple of arguments, or a dict of them.
    """
    if any(not _finite(each) for each in pytree.tree_leaves(inputs)):
        return "the inputs of the batch are not finite: look for nan in the data"
    if isinstance(model, DistributedDataParallel):
        model = model.module  # whose own forward may wait for other processes
    if any(hasattr(each, "device_mesh") for each in model.parameters()):  # as that of a sharded model would
        return "lower the learning rate, or clip gradients (clip=1.0); distributed=\"ddp\" would name the layer"
    found: list[tuple[str, nn.Module]] = []
    handles = [
        module.register_forward_hook(_note(found, name)) for name, module in model.named_modules() if name
    ]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            if isinstance(inputs, Mapping):
                model(**inputs)
            elif isinstance(inputs, tuple | list):
                model(*inputs)
            else:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    if not found:
        return (
            "the output of every layer is finite, so it is the loss function that is not: look at the targets, and for "
            "a logarithm or division by zero"
        )
    name, module = found[0]
    what = f"the first layer whose output is not finite is {name!r} ({type(module).__name__})"
    bad = next((key for key, value in module.named_parameters() if not _finite(value)), None)
    if bad is not None:
        return (
            f"{what}, whose {bad} is not finite since an earlier step: lower the learning rate, or clip gradients "
            "(clip=1.0)"
        )
    return f'{what}: lower the learning rate, clip gradients (clip=1.0), or use amp="bf16" in place of "fp16"'


def _note(found: list[tuple[str, nn.Module]], name: str) -> Any:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        if not all(map(_finite, _tensors(output))):
            found.append((name, module))

    return note


def _tensors(value: Any) -> Iterator[Tensor]:
    for leaf in pytree.tree_leaves(value if not hasattr(value, "to_tuple") else value.to_tuple()):
        if isinstance(leaf, Tensor):
            yield leaf


def _finite(value: Any) -> bool:
    return not (isinstance(value, Tensor) and value.is_floating_point()) or bool(torch.isfinite(value).all())
