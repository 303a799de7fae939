"""The oracle of slices: the full network, with the dropped units masked to zero where a product takes them in.

It interprets the captured graph of the plain model, and touches nothing but the inputs of products: there the units
that a slice leaves out are zero, and the others are scaled. What the groups are is taken from the analysis; that a
slice of them computes the same is what is tested.
"""

from __future__ import annotations

import copy
import inspect
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import ecograph
from ecograph import NoEffectWarning
from ecograph.analysis import find_sites
from ecograph.analysis.channels import Channels, find_channels, input_dim
from ecograph.analysis.rules.call import dims_of, function_name
from ecograph.analysis.rules.products import GROUPS, IN
from ecograph.capture import capture
from ecograph.capture.graph import BUFFER, PARAMETER
from ecograph.passes import SliceOut
from ecograph.record import records

#: What modules call the rates of their dropouts.
_DROPOUTS = (
    *("p", "drop_prob", "dropout", "attn_drop_p", "attention_dropout", "hidden_dropout", "activation_dropout"),
    *("stochastic_depth_prob", "dropout_p", "attn_dropout", "drop_rate"),
)


class Masked(fx.Interpreter):
    """Runs a captured graph with masks.

    Args:
        model: the plain model, whose parameters and buffers are used.
        example_inputs: as for ``optimize``.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self.captured = capture(model, example_inputs)
        assert len(self.captured.graphs) == 1, [part.note for part in self.captured.parts]
        self.model = model
        self.sites = find_sites(self.captured, model)
        self.channels: Channels = find_channels(self.captured, self.sites, model)
        self.by_node = {site.node: site for site in self.sites}
        self.slices: Mapping[str, Any] = {}
        super().__init__(self.captured.graphs[0].module)

    def __call__(self, slices: Mapping[str, Any], *inputs: Tensor) -> Any:
        """Returns what the graph returns.

        Args:
            slices: for each group that is sliced, an object with ``start``, ``width`` and ``scale()``.
            inputs: the tensors that the graph takes in, in the order of the placeholders.
        """
        self.slices = slices
        self.channels.keep([group for group in self.channels.groups if group.name in slices])
        given = iter(inputs)
        args = []
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                name = node.meta.get(PARAMETER) or node.meta.get(BUFFER)
                args.append(_tensor(self.model, name) if name else next(given))
        return self.run(*args)

    def as_model(self, slices: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Returns what the model returns for its own arguments, with plain containers."""
        interface = self.captured.interface
        assert interface is not None and not interface.problem, interface
        bound = inspect.signature(self.model.forward).bind(*args, **kwargs).arguments
        values = self(slices, *(bound[name] for name in interface.inputs.values()))
        (returned,) = next(node for node in self.module.graph.nodes if node.op == "output").args
        by_node = dict(zip(returned, values, strict=True))
        return pytree.tree_map(lambda leaf: by_node[leaf] if isinstance(leaf, fx.Node) else leaf, interface.result)

    def run_node(self, n: fx.Node) -> Any:
        if function_name(n) == "batch_norm" and (scale := self.uniform_scale(n.args[0])) != 1.0:
            return self.batch_norm(n, scale)
        site = self.by_node.get(n)
        if site is None or site.problem or site.kind == "other":
            return super().run_node(n)
        if site.groups > 1 and any(segment.group for segment in self.channels.axis(n, GROUPS)):
            return super().run_node(n)  # passes whole groups on, and sums over none of them
        dim = input_dim(site)
        mask = self.mask(dim)
        if mask is None:
            return super().run_node(n)
        source = site.product.input
        plain = self.env[source]
        shape = [1] * plain.dim()
        shape[dim.axis] = -1
        self.env[source] = plain * mask.to(plain).view(shape)
        # A source may be dropped from the environment after its last use.
        result = super().run_node(n)
        self.env[source] = plain
        return result

    def uniform_scale(self, source: fx.Node) -> float:
        """Returns by how much a product scales what it takes in, where a batch norm right behind it undoes that."""
        site = self.by_node.get(source)
        if site is None or site.kind != "conv" or site.product.arguments.get("bias") is not None:
            return 1.0
        layout = self.channels.axis(source, IN)
        found = self.slices.get(layout[0].group) if len(layout) == 1 and len(source.users) == 1 else None
        scale = 1.0 if found is None else found.scale()
        return 1.0 if isinstance(scale, Tensor) else scale

    def batch_norm(self, n: fx.Node, scale: float) -> Any:
        """The batch norm of a scaled input, whose running variance takes on the scale and not its square."""
        (args, kwargs) = self.fetch_args_kwargs_from_env(n)
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = {"training": False, "momentum": 0.1, **dict(zip(names, args, strict=False)), **kwargs}
        variance = given.get("running_var")
        before = None if variance is None else variance.clone()
        result = super().run_node(n)
        if variance is not None and given["training"]:
            kept = (1 - given["momentum"]) * before
            variance.data.copy_(kept + (variance - kept) / scale)  # the backward holds it, and does not read it
        return result

    def mask(self, dim: Any) -> Tensor | None:
        """Returns zeros where a dimension is cut off and the scale elsewhere; None where nothing is cut off."""
        pieces = []
        for segment in self.channels.layout(dim):
            found = self.slices.get(segment.group)
            if found is None:
                pieces.append(torch.ones(segment.size, dtype=torch.float64))
                continue
            mask = torch.zeros(segment.outer, segment.units, segment.inner, dtype=torch.float64)
            scale = found.scale()
            values = scale.double().view(1, -1, 1) if isinstance(scale, Tensor) else scale
            mask[:, found.start : found.start + found.width] = values
            pieces.append(mask.flatten())
        mask = torch.cat(pieces)
        return None if bool((mask == 1).all()) else mask

    def kept(self, buffer: str) -> Tensor | None:
        """Returns where a one-dimensional buffer is in the slices in force; None where it is in no group."""
        for node in self.module.graph.nodes:
            if node.meta.get(BUFFER) == buffer and len(dims_of(node)) == 1:
                mask = self.mask(dims_of(node)[0])
                return None if mask is None else mask != 0
        return None


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


def without_dropout(model: nn.Module) -> nn.Module:
    """Sets every dropout rate to 0: what it drops depends on the shape of what it is given."""
    for module in model.modules():
        for name in _DROPOUTS:
            if isinstance(vars(module).get(name), float):
                setattr(module, name, 0.0)
    return model


def in_double(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the inputs with floating-point tensors in float64."""
    return pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, inputs)


def compare(
    model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]], *, steps: int = 1, tolerance: float = 1e-6,
    **options: Any,
) -> dict[str, Any]:
    """Trains ``model`` on slices and asserts that outputs, gradients and statistics are those of the oracle.

    Args:
        model: in float64, without randomness of its own in the forward.
        inputs: ``(args, kwargs)``.
        steps: how many draws.
        tolerance: relative to the largest element of each tensor. Some scales are rounded to float32.
        options: of ``SliceOut``.

    Returns:
        The slices, by group. Where there are none, nothing was compared.
    """  # fmt: skip
    model.train()
    plain = copy.deepcopy(model)
    oracle = Masked(plain, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        ecograph.optimize(model, example_inputs=inputs, passes=[SliceOut(**{"when": "always", **options})])
    slices = {group.name: group.slice for group in records(model)[0].groups if group.slice is not None}
    for step in range(steps if slices else 0):
        _step(model, plain, oracle, slices, inputs, step, tolerance)
    return slices


def _step(
    model: nn.Module, plain: nn.Module, oracle: Masked, slices: Mapping[str, Any], inputs: Any, seed: int,
    tolerance: float,
) -> None:  # fmt: skip
    plain.load_state_dict(model.state_dict())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for each in (model, plain):
        each.zero_grad()
    mine, theirs = (pytree.tree_map_only(Tensor, _leaf, inputs) for _ in range(2))
    _seed(seed)
    found = list(_tensors(model(*mine[0], **mine[1])))
    _seed(seed)
    expected = list(_tensors(oracle.as_model(slices, *theirs)))
    generator = torch.Generator().manual_seed(seed)
    losses: list[list[Tensor]] = [[], []]
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        _close(a, b, f"output {i}", tolerance)
        if b.requires_grad:
            cotangent = torch.randn(b.shape, generator=generator, dtype=b.dtype)
            losses[0].append((a * cotangent).sum())
            losses[1].append((b * cotangent).sum())
    for terms in losses:
        sum(terms).backward()  # type: ignore[union-attr]
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        _close_grad(a, b, name, tolerance)
    for a, b in zip(*(filter(_is_tensor, pytree.tree_leaves(each)) for each in (mine, theirs)), strict=True):
        _close_grad(a, b, "an input", tolerance)
    for (name, a), b in zip(model.named_buffers(), plain.buffers(), strict=True):
        kept = oracle.kept(name)
        _close(a, b if kept is None else torch.where(kept, b, before[name]), name, tolerance)


def _close_grad(a: Tensor, b: Tensor, name: str, tolerance: float) -> None:
    if a.grad is None and b.grad is None:
        return
    zero = torch.zeros_like(a)
    _close(*(zero if each.grad is None else each.grad for each in (a, b)), f"the gradient of {name}", tolerance)


def _close(a: Tensor, b: Tensor, name: str, tolerance: float) -> None:
    assert a.shape == b.shape, name
    if not a.is_floating_point():
        assert torch.equal(a, b), name
        return
    if a.numel():
        error, size = (a - b).abs().max().item(), b.abs().max().item()
        assert error <= tolerance * (size + 1e-4), f"{name} is {error:.1e} off; its largest element is {size:.1e}"


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.clone().requires_grad_(tensor.is_floating_point())


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
