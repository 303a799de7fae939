"""The sparse gradient of a convolution: its own gradient node, on the kept channels of ``dY`` and of the weight.

A convolution's weight is ``(C_out, C_in / groups, ...)``, a transposed one's ``(C_in, C_out / groups, ...)``.

ONNX Runtime's ConvGrad unfolds the whole input for the weight's gradient, and folds as much for the input's, however
few channels of ``dY`` are left. So where a convolution has a stride of one, both come from convolutions of the kept
channels: ``dX`` is the plain convolution of ``dY`` with the weight turned around, and ``dW`` the weight's gradient of
that same convolution, where ``X`` is the gradient of what comes out. It took half the time for ResNet's layers at a
drop of 0.8 (1 thread).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ecograph.export.gradients.nodes import Nodes
from ecograph.export.gradients.selection import put, select, take, take_weight
from ecograph.export.sites import ExportedSite

if TYPE_CHECKING:
    import onnx

#: Where a layer has this many times more outputs than inputs, its input is smaller than what is kept of the outputs.
_WIDER = 4


def sparse_conv_grad(
    nodes: Nodes, gradients: list[onnx.NodeProto], site: ExportedSite, keep: str, ranks: str, shape: Sequence[int]
) -> dict[str, str]:
    """Adds the sparse gradient of a convolution.

    Args:
        nodes: to add to.
        gradients: the one ConvGrad or ConvTransposeGrad; inputs ``(dY, X, W)``, outputs ``(dX, dW, dB)``, of which some
            may be missing.
        site: the convolution.
        keep: ``(1,)``, int64: channels to keep per group.
        ranks: random numbers, or "".
        shape: of the weight; zeros where it is not known.

    Returns:
        For each output of ``gradients`` the name of what takes its place.
    """
    (node,) = gradients
    grad, input, weight = node.input
    grad_input, grad_weight, grad_bias = [*node.output, "", ""][:3]
    sparse_input, sparse_weight = site.grads
    dims = len(shape)
    kept = select(nodes, grad, [0, *range(2, dims)], site, keep, ranks)
    axis = 1 if node.op_type == "ConvTransposeGrad" else 0
    small_weight = take_weight(nodes, weight, kept, axis)
    own = [f"{nodes.prefix}/{name}" for name in ("grad_input", "grad_rows", "grad_bias_rows")]
    found: dict[str, str] = {}
    wants_input, wants_bias = bool(grad_input and sparse_input), bool(grad_bias and sparse_weight)
    small = take(nodes, grad, kept)
    if _around(node, shape) is not None:
        own = _turned(nodes, node, small, input, small_weight, shape, wants_input=wants_input, wants_bias=wants_bias)
    else:
        nodes.copy(
            node, [small, input, small_weight], [own[0] if wants_input else "", own[1], own[2] if wants_bias else ""]
        )
    if wants_input:
        found[grad_input] = own[0]
    if grad_weight and sparse_weight:
        if axis == 0:
            found[grad_weight] = put(nodes, weight, dims, kept, own[1], "grad_weight")
        else:
            swapped = [1, 0, *range(2, dims)]
            like = nodes.add("Transpose", [weight], "weight_t", perm=swapped)
            rows = nodes.add("Transpose", [own[1]], "grad_rows_t", perm=swapped)
            full = put(nodes, like, dims, kept, rows, "grad_weight_t")
            found[grad_weight] = nodes.add("Transpose", [full], "grad_weight", perm=swapped)
    if wants_bias:
        # A vector as long as the scores.
        found[grad_bias] = put(nodes, kept.fill, 1, kept, own[2], "grad_bias")
    rest = [name for name in node.output if name and name not in found]
    if rest:  # one of the two stays dense
        # The kernel always computes the weight's gradient.
        outputs = [f"{nodes.prefix}/dense_{i}" if name in rest or i == 1 else "" for i, name in enumerate(node.output)]
        nodes.copy(node, list(node.input), outputs)
        found |= {name: outputs[i] for i, name in enumerate(node.output) if name in rest}
    return found


def _around(node: onnx.NodeProto, shape: Sequence[int]) -> list[int] | None:
    """Returns the padding of the convolution that leads back; None for a gradient that is taken as it is."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    spatial = shape[2:]
    pads = attributes["pads"].ints if "pads" in attributes else [0] * (2 * len(spatial))
    steps = attributes["dilations"].ints if "dilations" in attributes else [1] * len(spatial)
    plain = (
        node.op_type == "ConvGrad"
        and all(size > 0 for size in shape)
        and all(stride == 1 for stride in (attributes["strides"].ints if "strides" in attributes else ()))
        and ("group" not in attributes or attributes["group"].i == 1)
        and ("auto_pad" not in attributes or attributes["auto_pad"].s == b"NOTSET")
    )
    if not plain:
        return None
    reach = [step * (size - 1) for step, size in zip(steps, spatial, strict=True)]
    around = [far - pad for far, pad in zip([*reach, *reach], pads, strict=True)]
    return around if min(around) >= 0 else None


def _turned(
    nodes: Nodes,
    node: onnx.NodeProto,
    small: str,
    input: str,
    weight: str,
    shape: Sequence[int],
    *,
    wants_input: bool,
    wants_bias: bool,
) -> list[str]:
    """Adds the gradients as those of the convolution that leads back; the same outputs as the node's own."""
    from onnx import helper

    around = _around(node, shape)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in ("pads", "auto_pad")}
    attributes |= {"pads": around, "kernel_shape": list(shape[2:])}
    swap = [1, 0, *range(2, len(shape))]
    turned = nodes.add("Transpose", [_flip(nodes, weight, shape, "weight_flipped")], "weight_turned", perm=swap)
    found = ["", "", ""]
    if wants_input:
        found[0] = nodes.add("Conv", [small, turned], "grad_input", **attributes)
    if shape[1] * _WIDER < shape[0]:  # unfolding the input is cheaper than unfolding what is kept
        outputs = ["", f"{nodes.prefix}/grad_rows", f"{nodes.prefix}/grad_bias_rows" if wants_bias else ""]
        nodes.copy(node, [small, input, weight], outputs)
        return [found[0], *outputs[1:]]
    domain = "com.microsoft"
    rows = nodes.add("ConvGrad", [input, small, turned], ["", "grad_turned"], domain=domain, **attributes)
    found[1] = _flip(nodes, nodes.add("Transpose", [rows], "grad_flipped", perm=swap), shape, "grad_rows")
    if wants_bias:
        axes = nodes.integers(0, *range(2, len(shape)))
        found[2] = nodes.add("ReduceSum", [small, axes], "grad_bias_rows", keepdims=0)
    return found


def _flip(nodes: Nodes, tensor: str, shape: Sequence[int], output: str) -> str:
    """Adds the tensor with its spatial dimensions reversed."""
    axes = [axis for axis in range(2, len(shape)) if shape[axis] > 1]
    if not axes:
        return tensor
    last, end, step = ([value] * len(axes) for value in (-1, -(2**31), -1))
    inputs = [tensor, *(nodes.integers(*values) for values in (last, end, axes, step))]
    return nodes.add("Slice", inputs, output)
