"""The sparse gradient of a convolution: its own gradient node, on the kept channels of ``dY`` and of the weight.

A convolution's weight is ``(C_out, C_in / groups, ...)``, a transposed one's ``(C_in, C_out / groups, ...)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecograph.export.gradients.nodes import Nodes
from ecograph.export.gradients.selection import put, select, take, take_weight
from ecograph.export.sites import ExportedSite

if TYPE_CHECKING:
    import onnx


def sparse_conv_grad(
    nodes: Nodes, gradients: list[onnx.NodeProto], site: ExportedSite, keep: str, ranks: str, dims: int
) -> dict[str, str]:
    """Adds the sparse gradient of a convolution.

    Args:
        nodes: to add to.
        gradients: the one ConvGrad or ConvTransposeGrad; inputs ``(dY, X, W)``, outputs ``(dX, dW, dB)``, of which some
            may be missing.
        site: the convolution.
        keep: ``(1,)``, int64: channels to keep per group.
        ranks: random numbers, or "".
        dims: dimensions of the weight.

    Returns:
        For each output of ``gradients`` the name of what takes its place.
    """
    (node,) = gradients
    grad, input, weight = node.input
    grad_input, grad_weight, grad_bias = [*node.output, "", ""][:3]
    sparse_input, sparse_weight = site.grads
    kept = select(nodes, grad, [0, *range(2, dims)], site, keep, ranks)
    axis = 1 if node.op_type == "ConvTransposeGrad" else 0
    small_weight = take_weight(nodes, weight, kept, axis)
    own = [f"{nodes.prefix}/{name}" for name in ("grad_input", "grad_rows", "grad_bias_rows")]
    found: dict[str, str] = {}
    wants_input, wants_bias = bool(grad_input and sparse_input), bool(grad_bias and sparse_weight)
    outputs = [own[0] if wants_input else "", own[1], own[2] if wants_bias else ""]
    nodes.copy(node, [take(nodes, grad, kept), input, small_weight], outputs)
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
