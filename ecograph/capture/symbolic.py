"""Capture without example inputs: symbolic tracing of the whole model, or child by child.

Everything that can be traced is traced through, torch.nn layers too, so that the graph holds the same torch-level
operations as Dynamo's. What cannot (data-dependent Python, a custom backward) becomes one opaque ``call_module`` node
in its parent's graph, and is then captured on its own, so its children are seen all the same.

Tracing through ``autograd.Function`` would record the operations of its forward and lose its backward without a word.
So a call of one is treated like any other code that cannot be traced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import fx, nn

from ecograph.capture.graph import BUFFER, MODULE, PARAMETER, Capture, Graph, Part
from ecograph.capture.quiet import first_line


class _CustomBackward(Exception):
    """A module calls an autograd.Function on a traced value."""


def capture(model: nn.Module) -> Capture:
    """Captures ``model`` symbolically: graphs without shapes, for the whole model or for its parts."""
    captured = Capture()
    # Tracing runs the model's own Python, which may count calls or update buffers: let it do so on a copy.
    scratch = copy.deepcopy(model, {id(p): p for p in model.parameters()}).train()
    _capture_part(scratch, "", captured, seen=set())
    return captured


def _capture_part(module: nn.Module, path: str, captured: Capture, seen: set[int]) -> None:
    """Captures ``module`` as one graph if it can be traced, else its children one by one."""
    if id(module) in seen:
        return
    seen.add(id(module))
    tracer = _Tracer(path)
    try:
        with _custom_backward_visible():
            graph = tracer.trace(module)
    except Exception as error:
        captured.parts.append(Part(path, "none", first_line(error)))
        opaque = [(name, child) for name, child in module.named_children()]
    else:
        _annotate(graph, module, path)
        captured.graphs.append(Graph(fx.GraphModule(tracer.root, graph), "symbolic", path))
        captured.parts.append(Part(path, "symbolic"))
        opaque = []
        for name, reason in tracer.opaque.items():
            leaf = module.get_submodule(name)
            seen.add(id(leaf))
            captured.parts.append(Part(_join(path, name), "none", reason))
            opaque += [(f"{name}.{child_name}", child) for child_name, child in leaf.named_children()]
    for name, child in opaque:
        _capture_part(child, _join(path, name), captured, seen)


class _Tracer(fx.Tracer):
    """Traces through every module; one that cannot be traced becomes a single node.

    Attributes:
        opaque: path of each module that became a node, with the reason.
    """

    def __init__(self, prefix: str) -> None:
        super().__init__(autowrap_functions=(F.multi_head_attention_forward,))
        self.prefix = prefix
        self.opaque: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return False

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        expand = _EXPANSIONS.get(type(m))
        last = next(reversed(self.graph.nodes), None)
        try:
            if expand is not None:
                return super().call_module(m, lambda *a, **k: expand(m, *a, **k), args, kwargs)
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            # Forget what the attempt recorded. The last node first: an earlier one may still have users.
            while (node := next(reversed(self.graph.nodes), None)) is not last and node is not None:
                self.graph.erase_node(node)
            path = self.path_of_module(m)
            self.opaque.setdefault(path, first_line(error))
            return self.create_proxy("call_module", path, args, kwargs)


def _batch_norm(m: nn.modules.batchnorm._BatchNorm, x: Any) -> Any:
    """BatchNorm in training mode, without the check of the input's rank that a symbolic value cannot answer."""
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
    """Within the context, calling an autograd.Function on a traced value raises instead of losing its backward."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        raise _CustomBackward("calls an autograd.Function: tracing would lose its backward")

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
