"""Writing ONNX nodes with names that cannot clash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


class Constants:
    """A graph's constants; the same numbers are written once.

    Args:
        graph: whose initializers they become.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._known = {initializer.name for initializer in graph.initializer}

    def integers(self, *values: int) -> str:
        """Returns the name of a constant vector of int64."""
        import numpy as np
        from onnx import numpy_helper

        name = f"ecograph.int.{'.'.join(map(str, values))}"
        if name not in self._known:
            self._known.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def number(self, value: float) -> str:
        """Returns the name of a constant of float32."""
        import numpy as np
        from onnx import numpy_helper

        name = f"ecograph.float.{value!r}"
        if name not in self._known:
            self._known.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name


class Nodes:
    """A list of nodes under construction.

    Args:
        prefix: of the names of all nodes and tensors in it.
        constants: of the graph that they are for.
    """

    def __init__(self, prefix: str, constants: Constants) -> None:
        self.prefix = prefix
        self.constants = constants
        self.integers = constants.integers
        self.list: list[onnx.NodeProto] = []

    def add(self, op_type: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any) -> str:
        """Adds a node and returns the name of its first output; a name that begins with "=" is taken as it is."""
        from onnx import helper

        outputs = [output] if isinstance(output, str) else list(output)
        names = [each[1:] if each.startswith("=") else f"{self.prefix}/{each}" if each else "" for each in outputs]
        own = f"{self.prefix}/{op_type}_{len(self.list)}"
        self.list.append(helper.make_node(op_type, list(inputs), names, name=own, **attributes))
        return next(name for name in names if name)

    def copy(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Adds a node with the operator and the attributes of another."""
        import onnx

        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = f"{self.prefix}/{node.op_type}_{len(self.list)}"
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        made.output.extend(outputs)
        self.list.append(made)
