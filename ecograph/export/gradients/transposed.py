"""The gradient of a transposed convolution, for which ONNX Runtime has no kernel on CPUs: by those of a convolution.

``Y = conv_transpose(X, W)`` is what a convolution with ``W`` computes backward. So ``dX`` is that convolution of
``dY``, and ``dW`` its weight's gradient where ``dY`` goes in and ``X`` is the gradient of what comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def replace_conv_transpose_grad(graph: onnx.GraphProto) -> None:
    """Replaces every ConvTransposeGrad of a graph and of the branches in it, in place."""
    from onnx import helper

    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                replace_conv_transpose_grad(attribute.g)
        if node.op_type != "ConvTransposeGrad":
            nodes.append(node)
            continue
        grad, input, weight = node.input
        grad_input, grad_weight, grad_bias = [*node.output, "", ""][:3]
        own = ("output_padding", "output_shape")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in own}
        if grad_input:
            nodes.append(helper.make_node("Conv", [grad, weight], [grad_input], name=f"{node.name}/Conv", **attributes))
        if grad_weight:
            name = f"{node.name}/ConvGrad"
            made = helper.make_node(
                "ConvGrad", [input, grad, weight], ["", grad_weight], name=name, domain="com.microsoft", **attributes
            )
            nodes.append(made)
        if grad_bias:
            positions = range(2, 2 + len(attributes["kernel_shape"]))
            axes = f"{node.name}/axes"
            nodes.append(helper.make_node("Constant", [], [axes], name=axes, value_ints=[0, *positions]))
            nodes.append(
                helper.make_node("ReduceSum", [grad, axes], [grad_bias], name=f"{node.name}/ReduceSum", keepdims=0)
            )
    del graph.node[:]
    graph.node.extend(nodes)
