"""Where the scale of a slice goes, decided once per group.

What a layer takes in of a slice is scaled, so that its sums keep their size. The weight of that layer can carry the
scale, at the cost of a scaled copy of its slice. Better, where a batch norm makes the slice and nothing but positively
homogeneous functions stand between it and every layer that takes it in: ``c * relu(x) = relu(c * x)``, so the norm's
own weight and bias can carry it, which are as small as the width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import fx

from ecograph.analysis.layout import Layout
from ecograph.analysis.rules.call import function_name
from ecograph.capture.graph import PARAMETER
from ecograph.rewrite.slicing import NormCut, Slicing

#: Functions f with ``f(c * x) = c * f(x)`` for positive c.
HOMOGENEOUS = frozenset(
    ["relu", "leaky_relu", "dropout", "dropout1d", "dropout2d", "dropout3d", "contiguous", "flatten", "view", "reshape"]
    + [f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)]
    + ["boolean_dispatch", "mean", "permute", "transpose"]
)


def carry_on_norms(slicing: Slicing) -> None:
    """Marks the batch norms that carry the scale of their group, and the products that then need not."""
    consumers: dict[str, set[fx.Node]] = {}
    for node, cut in slicing.products.items():
        for segment in cut.inp:
            if segment.group:
                consumers.setdefault(segment.group, set()).add(node)
    layers = Counter((cut.site.module, cut.site.parameters) for cut in slicing.products.values())
    modules = Counter(norm.module for norm in slicing.norms)
    carried: set[str] = set()
    for i, norm in enumerate(slicing.norms):
        group = _one_group(norm.channels)
        if not group or group in carried or modules[norm.module] > 1 or not _is_affine(norm):
            continue
        reached = _reached(norm.node, consumers.get(group, set()))
        cuts = [slicing.products[node] for node in reached]
        if reached != consumers.get(group) or any(
            cut.unscaled or _one_group(cut.inp) != group or layers[cut.site.module, cut.site.parameters] > 1
            for cut in cuts
        ):
            continue
        carried.add(group)
        slicing.norms[i] = replace(norm, gain=group)
        slicing.products.update({cut.site.node: replace(cut, carried=group) for cut in cuts})


def _one_group(layout: Layout) -> str:
    return layout[0].group if len(layout) == 1 else ""


def _is_affine(norm: NormCut) -> bool:
    """Whether a batch norm has a weight and a bias."""
    return sum(PARAMETER in node.meta for node in norm.node.all_input_nodes[1:]) == 2


def _reached(node: fx.Node, consumers: set[fx.Node]) -> set[fx.Node]:
    """Returns the consumers that a node leads to, or none where anything else but homogeneous functions reads it."""
    reached: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        source = waiting.pop()
        for user in source.users:
            if user in consumers:
                reached.add(user)
            elif function_name(user) in HOMOGENEOUS and user.args and user.args[0] is source:
                waiting.append(user)
            else:
                return set()
    return reached
