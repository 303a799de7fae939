"""The example batch, and which of its dimensions is the batch size that training may vary."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils import _pytree as pytree

from ecograph.capture.inputs import normalize
from ecograph.export.losses import Loss, scores


@dataclass(frozen=True)
class Batch:
    """What one training step is called with.

    Attributes:
        args: positional inputs of the model.
        kwargs: keyword inputs.
        targets: none where the model computes its own loss, else one tensor.
        names: of the tensors among them, in order.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: list[Tensor]
    names: list[str]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, in the order of ``names``."""
        leaves = pytree.tree_leaves((self.args, self.kwargs, self.targets))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def make_batch(model: nn.Module, example_inputs: Any, loss: Loss, example_targets: Any) -> Batch:
    """Returns an example batch of at least two samples, so that the batch size is not mistaken for a constant.

    Raises:
        ValueError: for inputs or targets that do not fit.
    """
    normalized = normalize(example_inputs)
    if normalized is None:
        raise ValueError("export needs example_inputs: what the model is called with, such as (x,)")
    if any(isinstance(each, Tensor) and not each.numel() for each in pytree.tree_leaves(normalized)):
        raise ValueError("example_inputs holds a tensor without elements: give a batch of one sample or more")
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: _at_least_two(t.detach().cpu()), normalized)
    targets = []
    if loss.function is not None:
        if example_targets is None:
            example_targets = loss.example_targets(_scores_in_eval(model, args, kwargs))
        if not isinstance(example_targets, Tensor):
            raise ValueError(f"example_targets is a {type(example_targets).__name__}: give a tensor")
        targets = [_at_least_two(example_targets.detach().cpu())]
    elif example_targets is not None:
        raise ValueError('example_targets is given, but with loss="model" the model computes the loss from its inputs')
    names = _names(model, args, kwargs) + ["targets"] * len(targets)
    return Batch(tuple(args), dict(kwargs), targets, names)


def dynamic_shapes(batch: Batch, starts: list[Tensor], statistics: dict[str, Tensor]) -> tuple[Any, ...]:
    """Returns ``torch.export``'s ``dynamic_shapes``: the first dimension may vary where it is the batch size."""
    size = batch.tensors[0].shape[0] if batch.tensors[0].dim() else None

    def shape(leaf: Any) -> Any:
        varies = isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size
        return {0: torch.export.Dim.AUTO} if varies else None

    varying = pytree.tree_map(shape, (batch.args, batch.kwargs, batch.targets))
    return (*varying, [None] * len(starts), dict.fromkeys(statistics))


def fixed_batch(traced: torch.export.ExportedProgram, batch: Batch) -> int | None:
    """Returns the batch size where tracing took it for a constant, which nothing else tells; else None."""
    values = {node.name: node.meta["val"] for node in traced.graph.find_nodes(op="placeholder")}
    given = [values[name] for name in traced.graph_signature.user_inputs if isinstance(name, str)]
    first = next((value for value in given if isinstance(value, Tensor)), None)
    if first is None or not first.dim() or not is_concrete_int(first.shape[0]):
        return None
    size = int(first.shape[0])
    return size if size == batch.tensors[0].shape[0] else None


def _at_least_two(tensor: Tensor) -> Tensor:
    return tensor.repeat(2, *[1] * (tensor.dim() - 1)) if tensor.dim() and tensor.shape[0] == 1 else tensor


@torch.no_grad()
def _scores_in_eval(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return scores(model(*args, **kwargs))
    finally:
        for module, training in modes:
            module.training = training


def _names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Returns the names of the input tensors: those of forward's parameters."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [(known[i] if i < len(known) else f"input_{i}", value) for i, value in enumerate(args)]
    found = []
    for name, value in [*named, *kwargs.items()]:
        tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
        found += [name] if len(tensors) == 1 else [f"{name}_{i}" for i in range(len(tensors))]
    return found
