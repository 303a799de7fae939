"""The sparse gradients of a linear product: matrix products with the kept columns of ``dY`` and rows of the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecograph.export.gradients.nodes import Nodes
from ecograph.export.gradients.selection import put, select, take, take_weight
from ecograph.export.sites import ExportedSite

if TYPE_CHECKING:
    import onnx


def sparse_linear_grad(
    nodes: Nodes, forward: onnx.NodeProto, gradients: list[onnx.NodeProto], site: ExportedSite, keep: str, ranks: str
) -> dict[str, str]:
    """Adds the sparse gradients of ``Y = X W^T + b``.

    Args:
        nodes: to add to.
        forward: the Gemm.
        gradients: what ONNX Runtime built for it: a Gemm for ``dX``, a Gemm for ``dW``, a ReduceSum for ``db``.
        site: the product.
        keep: ``(1,)``, int64: features to keep.
        ranks: random numbers, or "".

    Returns:
        For each output of ``gradients`` that is used elsewhere the name of what takes its place.
    """
    input, weight = forward.input[:2]
    transposed = next((a.i for a in forward.attribute if a.name == "transB"), 0)
    channels_axis = 0 if transposed else 1
    sparse_input, sparse_weight = site.grads
    grad, found = _gradient(gradients, forward), {}
    kept = select(nodes, grad, [0], site, keep, ranks)
    small = take(nodes, grad, kept)
    for node in gradients:
        result = node.output[0]
        if node.op_type in ("Gemm", "MatMul", "FusedMatMul") and weight in node.input and input not in node.input:
            if sparse_input:
                rows = take_weight(nodes, weight, kept, channels_axis)
                found[result] = nodes.add("Gemm", [small, rows], "grad_input", transB=channels_axis)
        elif node.op_type in ("Gemm", "MatMul", "FusedMatMul"):
            if sparse_weight:
                product = nodes.add("Gemm", [small, input], "grad_rows", transA=1)
                like = weight
                if channels_axis == 1:
                    like = nodes.add("Transpose", [weight], "weight_t", perm=[1, 0])
                full = put(nodes, like, 2, kept, product, "grad_weight_rows")
                found[result] = full if channels_axis == 0 else nodes.add("Transpose", [full], "grad_w", perm=[1, 0])
        elif node.op_type == "ReduceSum" and sparse_weight:
            total = nodes.add("ReduceSum", [small, nodes.integers(0)], "grad_bias_rows", keepdims=0)
            full = put(nodes, kept.fill, 1, kept, total, "grad_bias")
            found[result] = full
    return found


def _gradient(gradients: list[onnx.NodeProto], forward: onnx.NodeProto) -> str:
    name = f"{forward.output[0]}_grad"
    assert any(name in node.input for node in gradients), (name, forward.name)
    return name
