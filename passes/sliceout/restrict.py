"""Which parameters an optimizer step must be restricted on, and how each is cut: for ``update="slice"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from ecograph.analysis.layout import Layout, is_sliced
from ecograph.analysis.rules.call import function_name
from ecograph.capture.graph import PARAMETER
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import over_groups
from ecograph.passes.sliceout.take import Cut
from ecograph.rewrite.slicing import ProductCut, Slicing

Parameters = list[tuple[nn.Parameter, tuple[Cut, ...]]]
Places = list[tuple[nn.Module, str]]


def cut_parameters(slicing: Slicing, slices: Mapping[str, GroupSlice], model: nn.Module) -> tuple[Parameters, Places]:
    """Returns the parameters that are cut in a training step, each with its cuts, and where they are in the model.

    Raises:
        ValueError: where a weight is computed from parameters (standardized, re-parametrized), so that no rows of a
            parameter are those of the slice.
    """
    found: dict[str, tuple[Layout | None, ...]] = {}
    for cut in slicing.products.values():
        found.update(_of_product(cut))
    for norm in slicing.norms:
        names = [n.meta[PARAMETER] for n in norm.node.all_input_nodes if PARAMETER in n.meta]
        found.update({name: (norm.channels,) for name in names})
    for tensor in slicing.tensors:
        if PARAMETER in tensor.node.meta:
            found[tensor.node.meta[PARAMETER]] = tensor.layouts
    cuts = {
        name: tuple(Cut(d, layout, slices) for d, layout in enumerate(layouts) if layout and is_sliced(layout))
        for name, layouts in found.items()
    }
    names = [name for name, each in cuts.items() if each]
    places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
    return [(model.get_parameter(name), cuts[name]) for name in names], places


def _of_product(cut: ProductCut) -> dict[str, tuple[Layout | None, ...]]:
    site = cut.site
    signature = site.product.signature
    assert signature is not None
    weight, transposed = _parameter(site.product.weight, signature.transposed)
    if weight is None:
        raise ValueError(
            f"update='slice' cannot tell which rows of {', '.join(site.parameters)} a slice of {site.name} is: its "
            "weight is computed from them. Use update='autograd', or leave it out with "
            f"optimize(..., skip=[{site.name!r}])"
        )
    shape = site.weight_shape or ()
    out, inp, groups = (layout if is_sliced(layout) else None for layout in (cut.out, cut.inp, cut.groups))
    first, second = (inp, out) if transposed else (out, inp)
    if site.kind == "conv":
        first = over_groups(first, groups, site.groups, shape[0])
    found: dict[str, tuple[Layout | None, ...]] = {weight: (first, second)}
    bias = site.product.arguments.get(signature.bias) if signature.bias else None
    if isinstance(bias, fx.Node) and PARAMETER in bias.meta and site.out_channels is not None:
        if site.kind == "conv":
            out = over_groups(out, groups, site.groups, site.out_channels)
        found[bias.meta[PARAMETER]] = (out,)
    return found


def _parameter(weight: Any, transposed: bool) -> tuple[str | None, bool]:
    """Returns the parameter that a weight is, or is the transpose of, and whether it is ``(in, out)``."""
    while PARAMETER not in weight.meta:
        name = str(weight.args[1]) if weight.target is getattr else function_name(weight)
        if name not in ("T", "mT", "t", "transpose") or len(weight.all_input_nodes) != 1:
            return None, transposed
        weight, transposed = weight.all_input_nodes[0], not transposed
    return weight.meta[PARAMETER], transposed


