"""Capture with Dynamo: a backend that records graphs and computes nothing.

The model is copied with fake tensors in place of data, and a throw-away function that calls the copy is compiled with
a recording backend. Dynamo inlines the whole model into that function, so the graph and everything Dynamo caches
belong to it and vanish with it.

Parameters are recognised by identity: when a recorded graph is *called*, its arguments are the very tensors of the
copy, and the copy knows their qualified names. No naming scheme of Dynamo's placeholders is relied on.

A model with data-dependent Python cannot run on fake tensors. Only then is it run for real, on a copy that shares the
parameters and owns its buffers.
"""

from __future__ import annotations

import copy
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ecograph.capture import attention
from ecograph.capture.graph import BUFFER, MODULE, PARAMETER, Capture, Graph, Part
from ecograph.capture.inputs import Inputs, device_of, move
from ecograph.capture.quiet import code_caches_restored, first_line


def capture(model: nn.Module, inputs: Inputs) -> Capture:
    """Captures ``model`` as it runs on ``inputs`` in training mode.

    Raises:
        Exception: whatever Dynamo or the model raised, where it runs neither on fake nor on real tensors.
    """
    inputs = move(inputs, device_of(model))
    try:
        return _record(*_fake(model, inputs))
    except Exception as error:
        if any(p.is_meta for p in model.parameters()):
            raise
        note = f"ran on the example inputs, since it depends on data: {first_line(error)}"
    shared = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    return _record(shared, inputs, nullcontext(), note)


def _fake(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs, AbstractContextManager[Any]]:
    """Returns the model and the inputs with fake tensors (shapes and dtypes without memory), and their mode."""
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, FakeCopyMode(mode):
        fake = copy.deepcopy(model)
    args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, inputs)
    return fake, (args, kwargs), mode


def _record(
    model: nn.Module, inputs: Inputs, mode: AbstractContextManager[Any], note: str = ""
) -> Capture:
    """Runs ``model``, a copy of the user's, under a recording backend and returns what was recorded."""
    import torch._dynamo.config as dynamo_config

    model.train()
    parameters = {id(p): name for name, p in model.named_parameters(remove_duplicate=True)}
    buffers = {id(b): name for name, b in model.named_buffers(remove_duplicate=True)}
    graphs: list[Graph] = []
    recorded: dict[int, dict[fx.Node, str]] = {}

    def backend(module: fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
        def run(*args: Any) -> Any:
            placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
            names = {
                node: parameters[id(arg)] for node, arg in zip(placeholders, args, strict=True) if id(arg) in parameters
            }
            if id(module) not in recorded:
                recorded[id(module)] = names
                graph = Graph(module, "dynamo")
                _annotate(graph, model)
            else:  # the same code ran again for another layer, and Dynamo reused its graph
                graph = _relabelled(module, recorded[id(module)], names)
            for node, arg in zip(placeholders, args, strict=True):
                if node in names:
                    _nth(graph, placeholders.index(node)).meta[PARAMETER] = names[node]
                elif id(arg) in buffers:
                    _nth(graph, placeholders.index(node)).meta[BUFFER] = buffers[id(arg)]
            graphs.append(graph)
            return module(*args)

        return run

    def entry(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    args, kwargs = inputs
    limits = {"recompile_limit": 1 << 16, "accumulated_recompile_limit": 1 << 16}
    with (
        attention.visible(),
        code_caches_restored(),
        dynamo_config.patch(**limits),
        torch.enable_grad(),
        mode,
    ):
        torch.compile(entry, backend=backend, dynamic=False)(*args, **kwargs)
    if not graphs:
        raise RuntimeError("Dynamo recorded no graph")
    if len(graphs) > 1 and not note:
        note = f"{len(graphs)} graphs: Python between them cannot be captured"
    return Capture(graphs, [Part("", "dynamo", note)])


# Dynamo names modules by how the compiled function reaches them: "L['model'].layer1.0", or "L['model']" for the root.
_ROOT = re.compile(r"^L\['\w+'\]\.?")


def _annotate(graph: Graph, model: nn.Module) -> None:
    """Writes the path of the innermost module on every node."""
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        path = ""
        for name, _ in stack.values():
            candidate = _ROOT.sub("", name)
            if candidate in known:
                path = candidate
        node.meta[MODULE] = path


def _nth(graph: Graph, index: int) -> fx.Node:
    return [n for n in graph.nodes if n.op == "placeholder"][index]


def _relabelled(module: fx.GraphModule, before: dict[fx.Node, str], now: dict[fx.Node, str]) -> Graph:
    """Returns a copy of a graph that was recorded in one layer, with the paths of the layer it ran in now.

    The two layers have the same structure, so where ``blocks.0.fc.weight`` became ``blocks.1.fc.weight``, every path
    ``blocks.0...`` became ``blocks.1...``.
    """
    moved: dict[str, str] = {}
    for node, old in before.items():
        new = now.get(node, old)
        while old and new:
            moved.setdefault(old, new)
            old_tail, new_tail = old.rpartition("."), new.rpartition(".")
            if old_tail[2] != new_tail[2]:
                break
            old, new = old_tail[0], new_tail[0]
    copied = Graph(fx.GraphModule(module, copy.copy(module.graph)), "dynamo")
    for node in copied.nodes:
        path = node.meta.get(MODULE, "")
        head, tail = path, ""
        while head and head not in moved:
            head, _, last = head.rpartition(".")
            tail = f".{last}{tail}"
        node.meta[MODULE] = moved.get(head, head) + (tail if moved.get(head, head) else tail.lstrip("."))
    return copied
