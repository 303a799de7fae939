"""The slices in a captured graph: what ``ecograph inspect --graph`` shows, and what can be run.

The starts are those of one step's draw; a training run takes others in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ecograph.analysis.layout import Layout, is_sliced
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer, over_groups
from ecograph.passes.sliceout.take import size_now
from ecograph.rewrite.slicing import NormCut, SizeChange, Slicing


def put_slices(
    slicing: Slicing,
    slices: Mapping[str, GroupSlice],
    layers: Mapping[fx.Node, SlicedLayer],
    norms: Mapping[fx.Node, NormCut],
    unscaled: Mapping[fx.Node, GroupSlice],
    gains: Mapping[fx.Node, GroupSlice],
) -> None:
    """Rewrites the captured graphs: weights become slices of weights, sizes those of the slice.

    Args:
        slicing: every call that changes.
        slices: the groups' slices.
        layers: for each product, its layer.
        norms: the batch norms that change.
        unscaled: for batch norms that take a scale out again, the group.
        gains: for batch norms that carry the scale of their group, the group.
    """
    for node, cut in slicing.products.items():
        _product(node, cut.site.product, layers[node])
    for node, norm in norms.items():
        _norm(node, norm, slices, unscaled.get(node), gains.get(node))
    for tensor in slicing.tensors:
        with tensor.user.graph.inserting_before(tensor.user):
            small = _sliced(tensor.node, tensor.layouts, slices, tensor.user)
        tensor.user.replace_input_with(tensor.node, small)
    for change in slicing.sizes:
        _sizes(change, slices)


def _sliced(source: fx.Node, layouts: Any, slices: Mapping[str, GroupSlice], before: fx.Node) -> fx.Node:
    """Inserts the slices of a tensor's dimensions, as ``narrow`` where that is possible."""
    graph = before.graph
    result = source
    with graph.inserting_before(before):
        for dim, layout in enumerate(layouts):
            if layout and is_sliced(layout):
                result = _narrowed(graph, result, dim, layout, slices)
    return result


def _narrowed(graph: fx.Graph, source: fx.Node, dim: int, layout: Layout, slices: Mapping[str, GroupSlice]) -> fx.Node:
    if len(layout) == 1 and layout[0].outer == 1:
        (segment,) = layout
        found = slices[segment.group]
        start, length = found.start * segment.inner, found.width * segment.inner
        return graph.call_function(torch.narrow, (source, dim, start, length))
    pieces: list[fx.Node] = []
    offset = 0
    for segment in layout:
        blocks = 1 if not segment.group else segment.outer
        found_ = slices.get(segment.group)
        for _ in range(blocks):
            block = segment.size // blocks
            start = 0 if found_ is None else found_.start * segment.inner
            length = block if found_ is None else found_.width * segment.inner
            pieces.append(graph.call_function(torch.narrow, (source, dim, offset + start, length)))
            offset += block
    return graph.call_function(torch.cat, (pieces, dim))


def _product(node: fx.Node, product: Any, layer: SlicedLayer) -> None:
    signature = product.signature
    slices = layer.slices
    weight, arguments = product.weight, dict(product.arguments)
    groups = int(arguments.get("groups", 1))
    shape = weight.meta["example_value"].shape
    # A linear product's weight is (in, out) where it is transposed, a convolution's (in, out / groups, ...).
    first, second = (layer.inp, layer.out) if signature.transposed else (layer.out, layer.inp)
    first = over_groups(first, layer.groups, groups, shape[0])
    # Another pass may have put a transpose between the weight and the product.
    reader = node if weight in node.all_input_nodes else next(n for n in node.all_input_nodes if weight in n.args)
    small = _sliced(weight, (first, second), slices, reader)
    with node.graph.inserting_before(reader):
        if layer.scaled:
            small = _scaled(node.graph, small, layer, 0 if signature.transposed else 1, len(shape))
    if small is not weight:
        reader.replace_input_with(weight, small)
    changed: dict[fx.Node, fx.Node] = {}
    with node.graph.inserting_before(node):
        bias = arguments.get(signature.bias) if signature.bias else None
        if isinstance(bias, fx.Node) and len(bias.meta["example_value"].shape) == 1:
            out = over_groups(layer.out, layer.groups, groups, bias.meta["example_value"].shape[0])
            changed[bias] = _sliced(bias, (out,), slices, node)
    for old, new in changed.items():
        if new is not old:
            node.replace_input_with(old, new)
    if layer.groups is not None and is_sliced(layer.groups):
        if "groups" not in node.kwargs:
            node.args, node.kwargs = (), signature.bind(node.args, dict(node.kwargs))
        node.kwargs = {**node.kwargs, "groups": size_now(layer.groups, slices)}


def _scaled(graph: fx.Graph, small: fx.Node, layer: SlicedLayer, dim: int, ndim: int) -> fx.Node:
    """Inserts the scale of what a product takes in, on its weight."""
    assert layer.inp is not None
    factors: list[float] = []
    for segment in layer.inp:
        found = layer.slices.get(segment.group)
        scale = 1.0 if found is None else found.scale()
        values = scale.tolist() if isinstance(scale, Tensor) else [scale] * (found.width if found else 1)
        inner = segment.inner if found else segment.size
        factors += [v for _ in range(segment.outer if found else 1) for v in values for _ in range(inner)]
    if len(set(factors)) == 1:
        return graph.call_function(torch.mul, (small, factors[0]))
    values_node = graph.call_function(torch.tensor, (factors,))
    shape = [1] * ndim
    shape[dim] = len(factors)
    shaped = graph.call_method("view", (values_node, tuple(shape)))
    return graph.call_function(torch.mul, (small, shaped))


_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


def _norm(
    node: fx.Node,
    norm: NormCut,
    slices: Mapping[str, GroupSlice],
    unscaled: GroupSlice | None,
    gain: GroupSlice | None,
) -> None:
    arguments: dict[str, Any] = dict(zip(_NORM, node.args, strict=False)) | dict(node.kwargs)
    scale = 1.0
    if unscaled is not None:
        found = unscaled.scale()
        assert not isinstance(found, Tensor)
        scale = found
    training = bool(arguments.get("training", False))
    variance = scale if training else scale**2  # as in sliced_batch_norm
    for name, power in (("running_mean", scale), ("running_var", variance), ("weight", 1.0), ("bias", 1.0)):
        tensor = arguments.get(name)
        if not isinstance(tensor, fx.Node):
            continue
        small = _sliced(tensor, (norm.channels,), slices, node)
        if gain is not None and name in ("weight", "bias"):
            with node.graph.inserting_before(node):
                small = node.graph.call_function(torch.mul, (small, gain.scale()))
        if power != 1:
            # The norm is that of the scaled input; what it adds to the statistics is scaled back after it.
            with node.graph.inserting_before(node):
                seen = node.graph.call_function(torch.div, (small, power))
            if not training:
                arguments[name] = seen
                continue
            with node.graph.inserting_after(node):
                back = node.graph.call_function(torch.mul, (seen, power))
            with node.graph.inserting_after(back):
                node.graph.call_method("copy_", (small, back))
            small = seen
        arguments[name] = small
    if scale != 1:
        arguments["eps"] = arguments.get("eps", 1e-5) / scale**2
    node.args, node.kwargs = (arguments.pop("input"),), arguments


def _sizes(change: SizeChange, slices: Mapping[str, GroupSlice]) -> None:
    node = change.node
    args: tuple[Any, ...] = node.args
    kwargs: dict[str, Any] = node.kwargs
    if change.name == "group_norm":
        count = size_now(change.groups, slices)
        rest = {k: v for k, v in node.kwargs.items() if k != "num_groups"}
        node.args, node.kwargs = (node.args[0], count, *node.args[2:]), rest
    elif change.name in ("split", "split_with_sizes"):
        given = node.args[1] if len(node.args) > 1 else next(v for k, v in node.kwargs.items() if k.startswith("split"))
        dim = int(args[2] if len(args) > 2 else kwargs.get("dim", 0))
        now = [size_now(layouts[dim], slices) for layouts in change.after]
        node.args, node.kwargs = (node.args[0], now[0] if isinstance(given, int) else now, dim), {}
    else:
        now = [size_now(layout, slices) for layout in change.after[0]]
        if change.name == "unflatten":
            dim = int(args[1] if len(args) > 1 else kwargs["dim"])
            start = dim % len(change.before)
            count = len(change.after[0]) - len(change.before) + 1
            node.args, node.kwargs = (node.args[0], dim, tuple(now[start : start + count])), {}
        elif change.name == "expand" and node.op == "call_method":
            node.args, node.kwargs = (node.args[0], *now), {}
        else:
            node.args, node.kwargs = (node.args[0], tuple(now)), {}
