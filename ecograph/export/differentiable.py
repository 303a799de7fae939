"""Making an exported forward one that ONNX Runtime can differentiate: same values, other operators.

What is replaced here has no gradient in ONNX Runtime 1.19, or one that needs more outputs than the exporter leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

#: Outputs that the gradient reads: the statistics of a norm, the mask of a dropout.
_OUTPUTS = {"LayerNormalization": 3, "Dropout": 2, "MaxPool": 2, "SoftmaxCrossEntropyLoss": 2}


def make_differentiable(model: onnx.ModelProto) -> None:
    """Rewrites the forward in place."""
    from onnx import shape_inference

    graph = model.graph
    known = shape_inference.infer_shapes(model).graph
    types = _element_types(known)
    _slice_where_split(model, known)
    for node in graph.node:
        wanted = _OUTPUTS.get(node.op_type, 0)
        while 0 < len(node.output) < wanted:
            node.output.append(f"{node.name}.saved_{len(node.output)}")
        if node.op_type == "CastLike" and node.input[1] in types:
            _cast(node, types[node.input[1]])


def _cast(node: Any, to: int) -> None:
    """CastLike becomes a Cast to the type that is known."""
    from onnx import helper

    node.op_type = "Cast"
    del node.input[1:]
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("to", to))


def _slice_where_split(model: onnx.ModelProto, known: onnx.GraphProto) -> None:
    """Takes slices in place of a Split some of whose parts are not used.

    Its gradient joins those of the used parts alone, and has another shape than its input then.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in known.value_info}
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Split" or all(name in used for name in node.output):
            nodes.append(node)
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        start = 0
        for i, name in enumerate(node.output):
            end = start + shapes[name][axis]
            if name in used:
                own = f"{node.name}.part_{i}"
                ends = {f"{own}.start": start, f"{own}.end": end, f"{own}.axis": axis}
                for constant, value in ends.items():
                    graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), constant))
                made = helper.make_node("Slice", [node.input[0], *ends], [name], name=own)
                made.metadata_props.extend(node.metadata_props)
                nodes.append(made)
            start = end
    del graph.node[:]
    graph.node.extend(nodes)


def _element_types(known: onnx.GraphProto) -> dict[str, int]:
    """Returns the element type of every tensor, as far as ONNX could infer it."""
    types = {v.name: v.type.tensor_type.elem_type for v in (*known.input, *known.value_info, *known.output)}
    return types | {initializer.name: initializer.data_type for initializer in known.initializer}
