"""Which channels a gradient keeps, as ONNX nodes: the same choice as :mod:`ecograph.passes.sparse_backward.selection`.

The score of a channel is the sum of ``|dY|`` over the batch and all positions. A channel that holds NaN or infinity
and is not kept must not vanish: its rows become NaN, and so does the gradient of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ecograph.export.gradients.nodes import Nodes
from ecograph.export.sites import ExportedSite


@dataclass(frozen=True)
class Kept:
    """Names of what was selected.

    Attributes:
        index: ``(groups * keep,)``, int64, ascending by group.
        rows: ``(groups * keep, 1)``: the same for ScatterND.
        fill: ``(C,)``: 0, or NaN where the channel is not finite.
        poison: 0, or NaN where a channel that is not finite was not kept; a scalar.
        scale: what the kept gradients are multiplied by, or "".
    """

    index: str
    rows: str
    fill: str
    poison: str
    scale: str


def select(nodes: Nodes, grad: str, axes: Sequence[int], site: ExportedSite, keep: str, ranks: str) -> Kept:
    """Adds the selection.

    Args:
        nodes: to add to.
        grad: ``dY``.
        axes: its dimensions but that of the channels.
        site: whose gradient it is.
        keep: ``(1,)``, int64: channels to keep per group.
        ranks: ``(C,)``: random numbers to keep the highest of, or "" for the scores.
    """
    total = site.groups * site.channels
    # Not ReduceL1: that takes twice as long.
    scores = nodes.add("ReduceSum", [nodes.add("Abs", [grad], "sizes"), nodes.integers(*axes)], "scores", keepdims=0)
    ranked = ranks or scores
    if site.groups == 1:
        _, index = _top(nodes, ranked, keep, 0)
    else:
        shape = nodes.integers(site.groups, site.channels)
        _, within = _top(nodes, nodes.add("Reshape", [ranked, shape], "by_group"), keep, 1)
        first = nodes.integers(*range(0, total, site.channels))
        column = nodes.add("Unsqueeze", [first, nodes.integers(1)], "first")
        index = nodes.add("Reshape", [nodes.add("Add", [within, column], "in_all"), nodes.integers(-1)], "index")
    rows = nodes.add("Unsqueeze", [index, nodes.integers(1)], "rows")
    fill = nodes.add("Sub", [scores, scores], "fill")
    kept_fill = nodes.add("Gather", [fill, index], "kept_fill", axis=0)
    none = nodes.add("ConstantOfShape", [nodes.add("Shape", [kept_fill], "kept_shape")], "no_fill")
    dropped = nodes.add("ScatterElements", [fill, index, none], "dropped_fill", axis=0)
    poison = nodes.add("ReduceSum", [dropped], "poison", keepdims=0)
    scale = ""
    if site.unbiased:
        count = nodes.add("Cast", [keep], "count", to=1)
        scale = nodes.add("Div", [_number(nodes, site.channels), count], "scale")
    return Kept(index, rows, fill, poison, scale)


def _number(nodes: Nodes, value: int) -> str:
    return nodes.add("Cast", [nodes.integers(value)], f"number_{value}", to=1)


def _top(nodes: Nodes, scores: str, keep: str, axis: int) -> tuple[str, str]:
    values, index = (f"{nodes.prefix}/{name}" for name in ("top", "index" if axis == 0 else "within"))
    nodes.add("TopK", [scores, keep], [f"={values}", f"={index}"], axis=axis, largest=1, sorted=0)
    return values, index


def take(nodes: Nodes, grad: str, kept: Kept) -> str:
    """Returns the kept channels of ``dY``, scaled where asked for."""
    small = nodes.add("Gather", [grad, kept.index], "small", axis=1)
    return nodes.add("Mul", [small, kept.scale], "scaled") if kept.scale else small


def take_weight(nodes: Nodes, weight: str, kept: Kept, axis: int) -> str:
    """Returns the kept channels of a weight."""
    small = nodes.add("Gather", [weight, kept.index], "small_weight", axis=axis)
    return nodes.add("Add", [small, kept.poison], "weight")


def put(nodes: Nodes, like: str, dims: int, kept: Kept, rows: str, output: str) -> str:
    """Adds the full gradient from that of the kept channels.

    Args:
        nodes: to add to.
        like: a tensor of its shape.
        dims: how many dimensions it has.
        kept: the channels; they are its dimension 0.
        rows: the gradient of the kept channels.
        output: what to call it.
    """
    fill = kept.fill
    if dims > 1:
        fill = nodes.add("Reshape", [fill, nodes.integers(-1, *[1] * (dims - 1))], f"fill_{dims}")
    shape = nodes.add("Shape", [like], f"shape_{dims}")
    full = nodes.add("Expand", [fill, shape], f"full_{dims}")
    return nodes.add("ScatterND", [full, kept.rows, rows], output)
