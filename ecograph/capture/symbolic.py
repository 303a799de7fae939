"""Capture without example inputs: symbolic tracing of the whole model, or child by child.

Everything that can be traced is traced through, torch.nn layers too, so that the graph holds the same
torch-level operations as Dynamo's. What cannot (data-dependent Python, a custom backward) becomes one opaque
``call_module`` node in its parent's graph, and is then captured on its own, so its children are seen all the
same.

Tracing through ``autograd.Function`` would record the operations of its forward and lose its backward without
a word. So a call of one is treated like any other code that cannot be traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import fx, nn

from ecograph.capture import dynamo
from ecograph.capture.copying import copy_module
from ecograph.capture.graph import BUFFER, MODULE, PARAMETER, Capture, Graph, Part, unmet_parameters
from ecograph.capture.quiet import first_line


class _CustomBackwardError(Exception):
    """A module calls an autograd.Function on a traced value."""


def capture(model: nn.Module) -> Capture:
    """Captures ``model`` symbolically: graphs without shapes, for the whole model or for its parts."""
    captured = Capture()
    # Tracing runs the model's own Python, which may count calls or update buffers: let it do so on a copy.
    scratch = copy_module(model).train()
    _capture_part(scratch, "", captured, seen=set())
    return captured


def complete(model: nn.Module, captured: Capture) -> None:
    """Adds to a capture that is in pieces the modules that no piece has met.

    They ran between the pieces, or not on these inputs: layers that are dropped at random, branches not
    taken.
    """
    unmet = unmet_parameters(model, captured)
    scratch = copy_module(model).train()
    seen: set[int] = set()

    def visit(module: nn.Module, path: str) -> None:
        own = [id(p) for p in module.parameters()]
        if own and unmet.issuperset(own):
            start = len(captured.parts)
            _capture_part(module, path, captured, seen)
            for index, part in enumerate(captured.parts[start:], start):
                note = part.note or "not met on the example inputs; traced symbolically"
                captured.parts[index] = Part(part.path, part.method, note)
        else:
            for name, child in module.named_children():
                visit(child, _join(path, name))

    visit(scratch, "")


def _capture_part(module: nn.Module, path: str, captured: Capture, seen: set[int]) -> None:
    """Captures ``module`` as one graph if it can be traced, else its children one by one."""
    if id(module) in seen:
        return
    seen.add(id(module))
    tracer = _Tracer()
    opaque: list[tuple[str, nn.Module]] = []
    try:
        with _custom_backward_visible():
            graph = tracer.trace(module, _defaults(module))
    except Exception as error:
        _capture_opaque(module, path, first_line(error), captured)
        opaque += module.named_children()
    else:
        _annotate(graph, module, path)
        captured.graphs.append(Graph(fx.GraphModule(tracer.root, graph), "symbolic", path))
        captured.parts.append(Part(path, "symbolic"))
        opaque += [(name, module.get_submodule(name)) for name in _hidden(graph)]
        for name, reason in tracer.opaque.items():
            leaf = module.get_submodule(name)
            seen.add(id(leaf))
            _capture_opaque(leaf, _join(path, name), reason, captured)
            opaque += [(f"{name}.{child_name}", child) for child_name, child in leaf.named_children()]
    for name, child in opaque:
        _capture_part(child, _join(path, name), captured, seen)


def _hidden(graph: fx.Graph) -> list[str]:
    """Returns the modules whose parameters are handed to functions that are kept from tracing (by ``fx.wrap``)."""
    names: dict[str, None] = {}
    for node in graph.nodes:
        home = str(getattr(node.target, "__module__", None) or "torch")
        if node.op == "call_function" and home.partition(".")[0] not in ("torch", "_operator", "builtins", "math"):
            parameters = [n for n in node.all_input_nodes if PARAMETER in n.meta]
            names |= dict.fromkeys(str(n.target).rpartition(".")[0] for n in parameters)
    return [name for name in names if name]


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Returns the arguments of forward that have a default: they are traced with it.

    Otherwise ``if mask is None`` would silently take the branch for a mask.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _capture_opaque(module: nn.Module, path: str, reason: str, captured: Capture) -> None:
    """Captures a module that cannot be traced, where the layer it derives from says what it takes.

    A ``Conv2d`` whose padding depends on the image, or a recurrent layer: Dynamo runs it on an input of
    made-up size, and the shapes are forgotten.
    """
    example = _made_up_input(module)
    if example is not None:
        try:
            graphs = dynamo.capture(module, ((example,), {})).graphs
        except Exception as error:
            reason = first_line(error)
        else:
            for graph in graphs:
                _forget_shapes(graph, path)
            captured.graphs += graphs
            captured.parts.append(Part(path, "symbolic", f"captured on an input of made-up size: {reason}"))
            return
    captured.parts.append(Part(path, "none", reason))


def _made_up_input(module: nn.Module) -> torch.Tensor | None:
    """Returns an input for a subclass of a torch.nn layer, or None for other modules."""
    tensor = next(module.parameters(), None)
    for layer, channels, sizes in _MADE_UP:
        if isinstance(module, layer):
            made_up = torch.empty([n or int(getattr(module, channels)) for n in sizes])
            return made_up if tensor is None else made_up.to(tensor)
    return None


# Layer, the attribute that holds its channels, and an input's shape with 0 where the channels stand.
_MADE_UP: list[tuple[type[nn.Module], str, tuple[int, ...]]] = [
    (nn.Linear, "in_features", (2, 0)),
    (nn.Conv1d, "in_channels", (2, 0, 64)),
    (nn.ConvTranspose1d, "in_channels", (2, 0, 64)),
    (nn.Conv2d, "in_channels", (2, 0, 64, 64)),
    (nn.ConvTranspose2d, "in_channels", (2, 0, 64, 64)),
    (nn.Conv3d, "in_channels", (2, 0, 16, 64, 64)),
    (nn.ConvTranspose3d, "in_channels", (2, 0, 16, 64, 64)),
    (nn.RNNBase, "input_size", (2, 2, 0)),
    (nn.RNNCellBase, "input_size", (2, 0)),
]


def _forget_shapes(graph: Graph, path: str) -> None:
    """Turns a graph of a single module on a made-up input into one of the model without shapes."""
    graph.method, graph.path = "symbolic", path
    for node in graph.nodes:
        node.meta.pop("example_value", None)
        node.meta[MODULE] = _join(path, node.meta.get(MODULE, ""))
        for key in (PARAMETER, BUFFER):
            if key in node.meta:
                node.meta[key] = _join(path, node.meta[key])
    for nested in (each for calls in graph.nested.values() for each in calls):
        _forget_shapes(nested.graph, path)


class _Tracer(fx.Tracer):
    """Traces through every module; one that cannot be traced becomes a single node.

    Attributes:
        opaque: path of each module that became a node, with the reason.
    """

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(F.multi_head_attention_forward,))
        self.opaque: dict[str, str] = {}
        self._parameter_proxies: dict[str, fx.Proxy] = {}

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Notes where fx keeps proxies of parameters: those of an abandoned attempt are dropped."""
        self._parameter_proxies = parameter_proxy_cache
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        expand = _EXPANSIONS.get(type(m))
        last = next(reversed(self.graph.nodes), None)
        depth = len(self.module_stack)
        try:
            if expand is not None:
                return super().call_module(m, lambda *a, **k: expand(m, *a, **k), args, kwargs)
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            path = self.path_of_module(m)
            if ".parametrizations." in f".{path}.":
                raise  # the layer as a whole: with its weight out of sight it would be no product
            # Forget what the attempt recorded. The last node first: an earlier one may still have users.
            while (node := next(reversed(self.graph.nodes), None)) is not last and node is not None:
                self.graph.erase_node(node)
                for name in [name for name, proxy in self._parameter_proxies.items() if proxy.node is node]:
                    del self._parameter_proxies[name]
            while len(self.module_stack) > depth:  # fx leaves the modules that the error came through
                self.module_stack.popitem()
            self.opaque.setdefault(path, first_line(error))
            return self.create_proxy("call_module", path, args, kwargs)


def _batch_norm(m: nn.modules.batchnorm._BatchNorm, x: Any) -> Any:
    """BatchNorm in training mode, without the rank check, which a symbolic value cannot answer."""
    momentum = 0.0 if m.momentum is None else m.momentum
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, True, momentum, m.eps)


def _attention(m: nn.MultiheadAttention, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
    """The products of multi-head attention. Its shape-dependent middle stays a single node."""
    if m.in_proj_weight is not None:
        projected = F.linear(query, m.in_proj_weight, m.in_proj_bias)
    else:
        weights = (m.q_proj_weight, m.k_proj_weight, m.v_proj_weight)
        projected = [F.linear(x, w) for x, w in zip((query, key, value), weights, strict=True)]
    attended = _attend(projected, key, value)
    return F.linear(attended, m.out_proj.weight, m.out_proj.bias), None


def _attend(projected: Any, key: Any, value: Any) -> Any:
    """Stands in graphs for the attention between the packed projections; never run."""
    raise AssertionError("a symbolic graph of nn.MultiheadAttention is for analysis, not for running")


fx.wrap("_attend")

# What cannot be traced through, though its operations are known.
_EXPANSIONS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.MultiheadAttention: _attention,
}


@contextmanager
def _custom_backward_visible() -> Iterator[None]:
    """Within the context, calling an autograd.Function raises instead of losing its backward."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        raise _CustomBackwardError("calls an autograd.Function: tracing would lose its backward")

    with mock.patch.object(torch.autograd.Function, "apply", apply):
        yield


def _annotate(graph: fx.Graph, root: nn.Module, prefix: str) -> None:
    """Writes module paths and parameter names on the nodes."""
    parameters = {name for name, _ in root.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in root.named_buffers(remove_duplicate=False)}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        inner = next(reversed(stack.values()), None)
        node.meta[MODULE] = _join(prefix, inner[0] if inner else "")
        if node.op == "get_attr":
            if node.target in parameters:
                node.meta[PARAMETER] = _join(prefix, str(node.target))
            elif node.target in buffers:
                node.meta[BUFFER] = _join(prefix, str(node.target))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
