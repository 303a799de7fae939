"""SGD's momentum and weight decay, of which ONNX Runtime's optimizer has none, as part of the training graph.

There the gradients go through it before they are accumulated, so that the optimizer steps along the velocity, as in
``torch.optim.SGD``: ``v = momentum * v + (g + weight_decay * p)``. The velocities are tensors of the checkpoint; like
the running statistics, they go into the graph and come out new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecograph.export.forward import NEW

if TYPE_CHECKING:
    import onnx

#: Before the name of a parameter, for its velocity.
VELOCITY = "ecograph.velocity."


def add_velocities(model: onnx.ModelProto, parameters: list[str]) -> list[str]:
    """Adds velocities of zero to a forward graph, as initializers, and returns their names."""
    import numpy as np
    from onnx import numpy_helper

    shapes = {initializer.name: tuple(initializer.dims) for initializer in model.graph.initializer}
    for name in parameters:
        zeros = np.zeros(shapes[name], np.float32)
        model.graph.initializer.append(numpy_helper.from_array(zeros, VELOCITY + name))
    return [VELOCITY + name for name in parameters]


def put_momentum(training: onnx.ModelProto, options: dict[str, Any]) -> None:
    """Has a training graph accumulate what SGD with these options steps along, in place."""
    from onnx import TensorProto, helper

    from ecograph.export.gradients.nodes import Constants, Nodes

    momentum, decay, nesterov = options.get("momentum", 0.0), options.get("weight_decay", 0.0), options.get("nesterov")
    graph = training.graph
    constants, nodes = Constants(graph), []
    known = {value.name for value in graph.input}
    types = {value.name: value for value in graph.input}
    for node in list(graph.node):
        if node.op_type != "InPlaceAccumulatorV2":
            nodes.append(node)
            continue
        grad = node.input[1]
        name = node.input[0].removesuffix("_grad.accumulation.buffer")
        added = Nodes(f"ecograph.sgd/{name}", constants)
        if decay:
            grad = added.add("Add", [grad, added.add("Mul", [name, constants.number(decay)], "decay")], "decayed")
        if momentum:
            factor, velocity = constants.number(momentum), VELOCITY + name
            new = added.add("Add", [added.add("Mul", [velocity, factor], "before"), grad], f"={NEW}{velocity}")
            grad = added.add("Add", [grad, added.add("Mul", [new, factor], "ahead")], "nesterov") if nesterov else new
            shape = types[name].type.tensor_type.shape
            if velocity not in known:  # nothing used it so far
                value = helper.make_tensor_value_info(velocity, TensorProto.FLOAT, None)
                value.type.tensor_type.shape.CopyFrom(shape)
                graph.input.append(value)
            output = helper.make_tensor_value_info(NEW + velocity, TensorProto.FLOAT, None)
            output.type.tensor_type.shape.CopyFrom(shape)
            graph.output.append(output)
        node.input[1] = grad
        nodes += [*added.list, node]
    del graph.node[:]
    graph.node.extend(nodes)
