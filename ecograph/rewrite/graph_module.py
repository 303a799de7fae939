"""``lower="graph"``: the rewritten graph itself, as a module that trains the model's own parameters.

For those who go on working with ``torch.fx``. Parameters and buffers keep their qualified names, so the state_dict has
the model's keys; each rewritten product is a small submodule, so that its rate can change between steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from ecograph.analysis.products import Signature
from ecograph.capture.graph import BUFFER, PARAMETER, Capture
from ecograph.record import ATTRIBUTE, ORIGINAL, Record
from ecograph.rewrite.calls import Sizes
from ecograph.rewrite.passes import Choice, Layer, Plan
from ecograph.rewrite.route import compute
from ecograph.schedule import Ticker


class RewrittenGraph(fx.GraphModule):
    """A model's training step as one rewritten graph. Made by ``optimize(..., lower="graph")``."""

    def train(self, mode: bool = True) -> RewrittenGraph:
        """Sets training mode.

        Raises:
            RuntimeError: for eval mode: the graph was captured in training mode, with its dropout and batch statistics.
        """
        if not mode:
            raise RuntimeError(
                "this graph was captured in training mode and cannot run in eval mode: "
                "ecograph.restore(graph) gives the model back, with the same Parameters"
            )
        super().train(mode)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> RewrittenGraph:
        """Copies the record and the hooks too, which a GraphModule leaves behind."""
        result = super().__deepcopy__(memo)
        for name in (ATTRIBUTE, ORIGINAL, "_forward_pre_hooks"):
            result.__dict__[name] = copy.deepcopy(self.__dict__[name], memo)
        assert isinstance(result, RewrittenGraph)
        return result

    def __reduce__(self) -> Any:
        """Refuses: a graph module is pickled by tracing it again, which would lose the rewritten products.

        Raises:
            TypeError: always, with what to save in its place.
        """
        raise TypeError("a rewritten graph cannot be pickled: save graph.state_dict(), which has the model's keys")


class LayerProduct(nn.Module):
    """A rewritten product in a graph: no parameters of its own, the weight is an argument."""

    def __init__(self, layer: Layer, signature: Signature) -> None:
        super().__init__()
        self.layer = layer
        self.signature = signature

    def forward(self, **arguments: Any) -> Tensor:
        """Computes the product from the arguments of the torch function it stands for, by name."""
        return compute(self.layer, self.signature, arguments)


class LayerCall(nn.Module):
    """Any other call that a slice changes: a batch norm, one that spells out sizes, the slice of a parameter."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the call."""
        return self.call(*args, **kwargs)


class SizedCall:
    """A torch function with the sizes of the slice in force."""

    def __init__(self, target: Any, sizes: Sizes) -> None:
        self.target = target
        self.sizes = sizes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the call."""
        if any(each.active for each in self.sizes.slices.values()):
            args, kwargs = self.sizes(args, kwargs) or (args, kwargs)
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


def to_graph_module(model: nn.Module, captured: Capture, plan: Plan, record: Record) -> RewrittenGraph:
    """Returns the rewritten graph of ``model`` as a module; the model itself is not changed.

    Raises:
        ValueError: where the model was not captured as one graph, or the graph cannot stand for it.
    """
    interface = captured.interface
    if interface is None:
        notes = "; ".join(part.note for part in captured.parts if part.note) or "give example_inputs"
        raise ValueError(f"lower='graph' needs a model that is captured in one graph ({notes}): use lower='model'")
    if interface.problem:
        raise ValueError(f"lower='graph' cannot call the graph as the model: {interface.problem}. Use lower='model'")

    source = captured.graphs[0].module.graph
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    names = dict.fromkeys(interface.inputs.values())
    arguments = {name: graph.placeholder(name) for name in names}
    rewritten = {choice.site.node: choice for choice in plan.rewritten}
    products: dict[str, nn.Module] = {}
    norms = {choice.cut.node: choice.norm for choice in plan.norms}
    cuts = {(cut.user, cut.node): cutter for cut, cutter in plan.cuts}
    sizes = {change.node: changed for change, changed in plan.sizes}
    for node in source.nodes:
        tensor_name = node.meta.get(PARAMETER) or node.meta.get(BUFFER)
        if tensor_name is not None:
            nodes[node] = graph.get_attr(tensor_name)
        elif node.op == "placeholder":
            nodes[node] = arguments[interface.inputs[node]]
        elif node.op == "output":
            graph.output(fx.map_arg(interface.result, nodes.__getitem__))
        elif node in rewritten:
            nodes[node] = _call_product(graph, rewritten[node], products, nodes)
        else:
            mapped = dict(nodes)
            for tensor in node.all_input_nodes:
                if (node, tensor) in cuts:
                    name = _add(products, LayerCall(cuts[node, tensor]))
                    mapped[tensor] = graph.call_module(name, (nodes[tensor],))
            call = norms.get(node) or (SizedCall(node.target, sizes[node]) if node in sizes else None)
            if call is None:
                nodes[node] = graph.node_copy(node, mapped.__getitem__)
            else:
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), mapped.__getitem__)
                nodes[node] = graph.call_module(_add(products, LayerCall(call)), args, dict(kwargs))
        if node in nodes:
            nodes[node].meta = dict(node.meta)

    tensors = dict(model.named_parameters(remove_duplicate=False)), dict(model.named_buffers(remove_duplicate=False))
    own = {str(n.target): getattr(captured.graphs[0].module, str(n.target)) for n in source.nodes if n.op == "get_attr"}
    module = RewrittenGraph({**own, **tensors[0], **tensors[1], **products}, graph, type(model).__name__)
    _add_missing(module, model)
    module.register_forward_pre_hook(Ticker(plan.rates))
    module.__dict__[ATTRIBUTE] = record
    module.__dict__[ORIGINAL] = model
    return module


def _call_product(
    graph: fx.Graph, choice: Choice, products: dict[str, nn.Module], nodes: dict[fx.Node, fx.Node]
) -> fx.Node:
    signature = choice.site.product.signature
    assert signature is not None and choice.layer is not None
    name = _add(products, LayerProduct(choice.layer, signature))
    arguments = fx.map_arg(choice.site.product.arguments, nodes.__getitem__)
    return graph.call_module(name, kwargs=dict(arguments))


def _add(products: dict[str, nn.Module], module: nn.Module) -> str:
    name = f"ecograph_product_{len(products)}"
    products[name] = module
    return name


def _add_missing(module: nn.Module, model: nn.Module) -> None:
    """Registers the tensors of ``model`` that its graph does not read, and which buffers are not saved."""
    for path, part in model.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            owner = _submodule(module, path)
            if name not in owner._parameters:
                owner.register_parameter(name, parameter)
        for name, buffer in part.named_buffers(recurse=False):
            owner = _submodule(module, path)
            owner.register_buffer(name, buffer, persistent=name not in part._non_persistent_buffers_set)


def _submodule(module: nn.Module, path: str) -> nn.Module:
    for name in path.split(".") if path else ():
        if name not in module._modules:
            module.add_module(name, nn.Module())
        inner = module._modules[name]
        assert inner is not None
        module = inner
    return module
