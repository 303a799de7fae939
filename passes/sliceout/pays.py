"""Whether slicing a channel group pays: the cost model is asked what its layers run sliced and whole.

Products and batch norms are recorded as they really run, forward and backward, on tensors without data; all other
calls on the group's activations are taken to read and write them once each way. What is saved is work on narrower
tensors; what it costs is cutting the parameters, and putting their gradients back into zeros of full size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn

from ecograph.analysis.channels import Group
from ecograph.analysis.layout import Layout
from ecograph.capture.graph import example
from ecograph.cost.devices import Roofline
from ecograph.cost.pays import Spec, Verdict, compare, computed_in, product_call, record_call
from ecograph.cost.steps.op import Op
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.norm import sliced_batch_norm
from ecograph.passes.sliceout.take import Cut, full_size, size_now
from ecograph.rewrite.slicing import NormCut, ProductCut, Slicing


def group_verdicts(
    groups: Sequence[Group],
    slices: Mapping[str, GroupSlice],
    slicing: Slicing,
    model: nn.Module,
    prices: Roofline,
) -> dict[str, Verdict]:
    """Returns what slicing each group saves and costs; groups with shapes that are not known are not in it.

    What a call saves and costs with all groups sliced is shared out among those that it has to do with, by how much of
    its channels each drops: what joins many groups is cut once, however many of them there are.

    Args:
        groups: the groups.
        slices: of each, at the peak rate.
        slicing: every call that slicing them changes.
        model: for the types of the parameters.
        prices: of the device it runs on.
    """
    found = {group.name: Verdict(0.0, 0.0) for group in groups}
    seen: set[fx.Node] = set()

    def share_out(verdict: Verdict | None, layouts: Sequence[Layout], node: fx.Node) -> None:
        dropped = _dropped(layouts, slices)
        for name, share in dropped.items():
            if verdict is None:
                found.pop(name, None)
            elif name in found:
                found[name] += Verdict(share * verdict.saves, share * verdict.costs)
        seen.add(node)

    for node, cut in slicing.products.items():
        layouts = (cut.out, cut.inp, cut.groups)
        if any(segment.group in slices for layout in layouts for segment in layout):
            share_out(_product(cut, slices, model, prices), layouts, node)
    for norm in slicing.norms:
        if any(segment.group in slices for segment in norm.channels):
            share_out(_norm(norm, slices, prices), (norm.channels,), norm.node)
    for group in groups:
        if group.name in found:
            share = slices[group.name].width / group.units
            others = [node for node in group.activations if node not in seen]
            found[group.name] += compare(_passed_on(others, 1.0), _passed_on(others, share), prices)
    return found


def _dropped(layouts: Sequence[Layout], slices: Mapping[str, GroupSlice]) -> dict[str, float]:
    """Returns for each group that is sliced its part of all that is dropped from some dimensions; they sum to 1."""
    parts: dict[str, float] = {}
    for layout in layouts:
        for segment in layout:
            if segment.group in slices:
                slice = slices[segment.group]
                lost = segment.size * (1 - slice.width / slice.units) / full_size(layout)
                parts[segment.group] = parts.get(segment.group, 0.0) + lost
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()} if total else {}


def _product(
    cut: ProductCut, slices: Mapping[str, GroupSlice], model: nn.Module, prices: Roofline
) -> Verdict | None:
    call = product_call(cut.site, model)
    if call is None:
        return None
    rate: Any = next(iter(slices.values())).rate
    layer = SlicedLayer(
        cut.site.name, rate=rate, out=cut.out, inp=cut.inp, groups=cut.groups or None, slices=slices,
        scaled=any(segment.group in slices for segment in cut.inp) and not (cut.unscaled or cut.carried),
    )  # fmt: skip
    plain = call.product

    def sliced(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not plain.dims:
            return layer.linear(input, weight, bias)
        return layer.conv(
            input, weight, bias, plain.stride, plain.padding, plain.dilation, plain.groups,
            transposed=plain.transposed, output_padding=plain.output_padding,
        )  # fmt: skip

    share = math.prod(size_now(each, slices) / full_size(each) for each in (cut.inp, cut.groups) if each)
    shape = list(call.input.shape)
    shape[-plain.dims - 1] = round(shape[-plain.dims - 1] * share)
    small = Spec(tuple(shape), call.input.dtype, call.input.requires_grad, channels_last=call.input.channels_last)
    return compare(call.record(), record_call(sliced, (small, call.weight, call.bias)), prices)


def _norm(norm: NormCut, slices: Mapping[str, GroupSlice], prices: Roofline) -> Verdict | None:
    operands = [example(each) for each in _operands(norm.node)]
    if operands[0] is None:
        return None
    cut = Cut(0, norm.channels, slices)

    def spec(index: int, weight: bool) -> Spec | None:
        tensor = operands[index]
        return None if tensor is None else Spec(tuple(tensor.shape), tensor.dtype, weight, weight)

    whole = Spec(tuple(operands[0].shape), computed_in(operands[0].dtype))
    width = size_now(norm.channels, slices)
    small = Spec((whole.shape[0], width, *whole.shape[2:]), whole.dtype)
    rest = (spec(1, False), spec(2, False), spec(3, True), spec(4, True))

    def plain(input: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(input, mean, var, weight, bias, True)

    def sliced(input: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return sliced_batch_norm(input, mean, var, weight, bias, True, 0.1, 1e-5, cuts=[cut])

    return compare(record_call(plain, (whole, *rest)), record_call(sliced, (small, *rest)), prices)


def _operands(node: fx.Node) -> list[Any]:
    """Returns input, running mean and variance, weight and bias of ``F.batch_norm``."""
    names = ("input", "running_mean", "running_var", "weight", "bias")
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return [given.get(name) for name in names]


def _passed_on(nodes: list[fx.Node], share: float) -> list[Op]:
    """Returns the calls that make tensors of a group, at a share of its width."""
    ops = []
    for node in nodes:
        tensor = example(node)
        if tensor is None or not tensor.is_floating_point():
            continue
        size = round(tensor.numel() * share) * tensor.element_size()
        dtype = str(computed_in(tensor.dtype)).removeprefix("torch.")
        about: dict[str, Any] = {"name": "aten.mul", "kind": "pointwise", "dtype": dtype}
        ops.append(Op(phase="forward", read=size, written=size, **about))
        ops.append(Op(phase="backward", read=2 * size, written=size, **about))
    return ops
