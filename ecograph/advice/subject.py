"""What is measured: a model, a batch, and how a step is taken on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from ecograph.capture.copying import copy_module
from ecograph.capture.inputs import Inputs, device_of, move, normalize
from ecograph.cost.steps.record import mean_square
from ecograph.optimize import restore_quietly

MakeOptimizer = Callable[..., Optimizer]


@dataclass(frozen=True)
class Subject:
    """A training step, before any switch is on.

    Attributes:
        model: is never touched; trials work on copies.
        inputs: of a batch, on the model's device.
        targets: that the loss takes beside the outputs; None where it takes outputs alone.
        loss_fn: see ``advise``.
        optimizer: makes an optimizer for parameters.
        device: of the model.
    """

    model: nn.Module
    inputs: Inputs
    targets: Any
    loss_fn: Callable[..., Tensor]
    optimizer: MakeOptimizer
    device: torch.device

    def copy(self) -> nn.Module:
        """Returns a plain copy of the model that shares nothing with it, in training mode."""
        made = copy_module(self.model, share_parameters=False)
        restore_quietly(made)
        return made.train()

    @property
    def batch(self) -> int | None:
        """Samples in the batch: the first size of the first tensor that has sizes."""
        found = [leaf for leaf in pytree.tree_leaves(self.inputs) if isinstance(leaf, Tensor) and leaf.ndim]
        return found[0].shape[0] if found else None

    def resized(self, batch: int) -> tuple[Inputs, Any]:
        """Returns inputs and targets of another batch size: samples repeated, or the first of them."""
        now = self.batch
        assert now is not None

        def resize(tensor: Tensor) -> Tensor:
            if not tensor.ndim or tensor.shape[0] != now:
                return tensor
            repeats = -(-batch // now)
            return torch.cat([tensor] * repeats)[:batch].clone()

        args, kwargs = pytree.tree_map_only(Tensor, resize, self.inputs)
        return (args, kwargs), pytree.tree_map_only(Tensor, resize, self.targets)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Returns the loss of a batch as one number."""
        value = self.loss_fn(outputs) if targets is None else self.loss_fn(outputs, targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ValueError(
                f"loss_fn returned {_said(value)} where one number is needed: take its mean, or leave loss_fn out for "
                "a stand-in"
            )
        return value

    @property
    def optimizer_name(self) -> str:
        """As it is written in code."""
        made = self.optimizer.func if isinstance(self.optimizer, partial) else self.optimizer
        name = getattr(made, "__name__", type(made).__name__)
        return f"torch.optim.{name}" if getattr(torch.optim, name, None) is made else name


def make_subject(
    model: nn.Module,
    example_inputs: Any,
    loss_fn: Callable[..., Tensor] | None,
    targets: Any,
    optimizer: MakeOptimizer,
) -> Subject:
    """Checks what a user gave, and takes a step's forward and backward to see that it works.

    Raises:
        ValueError: for what cannot be measured, with the argument and the fix.
    """
    device = device_of(model) or torch.device("cpu")
    if device.type == "meta":
        raise ValueError("the model is on the meta device, where nothing can be measured: make it on the CPU or a GPU")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model requires a gradient: there is no training step to measure")
    inputs = normalize(example_inputs)
    if inputs is None:
        raise ValueError(
            "advise runs steps, so it needs example_inputs: give a batch as you would pass it to model(...)"
        )
    if loss_fn is not None and not callable(loss_fn):
        raise ValueError(f"loss_fn={loss_fn!r}: give a function from what the model returns to a number, or None")
    if targets is not None and loss_fn is None:
        raise ValueError("targets are given and no loss_fn that takes them: give loss_fn, or leave targets out")
    if not callable(optimizer):
        kind = type(optimizer).__name__
        raise ValueError(
            f"optimizer is a {kind}: give a class, such as torch.optim.{kind}, or a functools.partial of one"
        )
    targets = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), targets)
    subject = Subject(model, move(inputs, device), targets, loss_fn or mean_square, optimizer, device)
    _try(subject)
    return subject


def trainable(model: nn.Module) -> Iterable[nn.Parameter]:
    """Returns the parameters that a step changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _try(subject: Subject) -> None:
    model = subject.copy()
    args, kwargs = subject.inputs
    try:
        outputs = model(*args, **kwargs)
    except Exception as error:
        raise ValueError(f"the model does not run on example_inputs: {type(error).__name__}: {error}") from error
    try:
        value = subject.loss(outputs, subject.targets)
    except ValueError:
        raise
    except Exception as error:
        hint = " (a loss of outputs and targets needs targets=)" if subject.targets is None else ""
        raise ValueError(
            f"loss_fn does not take what the model returns{hint}: {type(error).__name__}: {error}"
        ) from error
    if not value.requires_grad:
        raise ValueError("the loss does not depend on the model's parameters: there is no backward to measure")
    value.backward()  # type: ignore[no-untyped-call]


def _said(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
