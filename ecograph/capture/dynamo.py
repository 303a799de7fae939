"""Capture with Dynamo: a backend that records graphs and computes nothing.

The model is copied with fake tensors in place of data, and a throw-away function that calls the copy is
compiled with a recording backend. Dynamo inlines the whole model into that function, so the graph and
everything Dynamo caches belong to it and vanish with it.

Parameters are recognised by identity: when a recorded graph is *called*, its arguments are the very tensors
of the copy, and the copy knows their qualified names. No naming scheme of Dynamo's placeholders is relied on.

A model with data-dependent Python cannot run on fake tensors. Only then is it run for real, on a copy that
shares the parameters and owns its buffers.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from ecograph.capture import attention
from ecograph.capture.copying import Copies, copy_module, fake_copy
from ecograph.capture.graph import BUFFER, MODULE, PARAMETER, Capture, Graph, Part, unmet_parameters
from ecograph.capture.inputs import Inputs, device_of, move
from ecograph.capture.interface import find_interface
from ecograph.capture.nested import find_nested
from ecograph.capture.quiet import code_caches_restored, first_line, untouched_random_state


def capture(model: nn.Module, inputs: Inputs) -> Capture:
    """Captures ``model`` as it runs on ``inputs`` in training mode.

    Raises:
        Exception: whatever Dynamo or the model raised, where it runs neither on fake nor on real tensors.
    """
    inputs = move(inputs, device_of(model))
    try:
        return _capture(model, lambda: fake_copy(model, inputs))
    except Exception as error:
        if any(p.is_meta for p in model.parameters()):
            raise
        note = f"ran on the example inputs, since it depends on data: {first_line(error)}"
    return _capture(model, lambda: (copy_module(model), inputs, nullcontext()), note)


def _capture(model: nn.Module, copies: Callable[[], Copies], note: str = "") -> Capture:
    """Records a run and, where it has gaps, a second one without them.

    Some functions Dynamo gives up as a whole, such as one with a graph break inside a loop. It then enters the
    modules that they call, but not torch.nn's own layers. So those that no graph has met are compiled one by one.
    """
    with untouched_random_state(model):  # both runs take the same turns
        captured = _record(*copies(), note)
    unmet = unmet_parameters(model, captured) if captured.cut else set()
    layers = [
        path
        for path, module in model.named_modules()
        if type(module).__module__.startswith("torch.nn.")
        and any(id(p) in unmet for p in module.parameters(recurse=False))
    ]
    if layers:
        captured = _record(*copies(), note, layers)
    if not captured.graphs:
        raise RuntimeError("Dynamo recorded no graph")
    return captured


def _record(
    model: nn.Module,
    inputs: Inputs,
    mode: AbstractContextManager[Any],
    note: str = "",
    alone: Sequence[str] = (),
) -> Capture:
    """Runs ``model``, a copy of the user's, under a recording backend and returns what was recorded.

    Args:
        model: the copy.
        inputs: what it is called with.
        mode: the mode its tensors need.
        note: why it is run in the way it is.
        alone: paths of layers to compile on their own, where no compiled function calls them.
    """
    import torch._dynamo.config as dynamo_config
    from torch._dynamo.utils import counters

    model.train()
    parameters = {id(p): name for name, p in model.named_parameters(remove_duplicate=True)}
    buffers = {id(b): name for name, b in model.named_buffers(remove_duplicate=True)}
    paths = {id(module): path for path, module in model.named_modules()}
    graphs: list[Graph] = []
    first_run: dict[int, list[str]] = {}
    last_call: tuple[Any, Any] = ((), ())

    def backend(module: fx.GraphModule, example_inputs: list[torch.Tensor], frame: str | None = None) -> Any:
        sources = _source_names(module)  # Dynamo forgets them once it has compiled

        def run(*args: Any) -> Any:
            names = [parameters.get(id(arg)) or buffers.get(id(arg)) or "" for arg in args]
            if id(module) not in first_run:
                first_run[id(module)] = names
                graph = _graph(module)
                _annotate(graph, paths, _frame_path(sources, names) if frame is None else frame)
            else:  # the same code ran again for another layer, and Dynamo reused its graph
                graph = _graph(_copied(module))
                _relabel(graph, _moves(first_run[id(module)], names))
            _name_tensors(graph, [(parameters.get(id(arg)), buffers.get(id(arg))) for arg in args])
            graphs.append(graph)
            nonlocal last_call
            last_call = args, (outputs := module(*args))
            return outputs

        return run

    def entry(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    args, kwargs = inputs
    with (
        attention.visible(),
        code_caches_restored(),
        dynamo_config.patch(**_config()),
        torch.compiler.set_stance("default"),
        torch.enable_grad(),
        mode,
    ):
        for path in alone:
            layer = model.get_submodule(path)
            record = partial(backend, frame=path)
            layer.forward = torch.compile(layer.forward, backend=record, dynamic=False)
        counters["graph_break"].clear()
        result = torch.compile(entry, backend=backend, dynamic=False)(*args, **kwargs)
        breaks = list(counters["graph_break"])
    if breaks and not note:
        note = f"{len(graphs)} graphs, cut where Dynamo says: {first_line(breaks[0])}"
    captured = Capture(graphs, [Part("", "dynamo", note)], cut=bool(breaks))
    if len(graphs) == 1 and not breaks:
        captured.interface = find_interface(model, inputs, graphs[0], *last_call, result)
    return captured


def _config() -> dict[str, Any]:
    """Dynamo's settings for recording, whatever the user's are."""
    return {
        # A graph break in a block that is repeated gives one entry per block.
        "recompile_limit": 1 << 16,
        "accumulated_recompile_limit": 1 << 16,
        "error_on_recompile": False,
        "fail_on_recompile_limit_hit": False,
        "suppress_errors": False,
        # Recurrent layers as one node of the graph, not as a place where it is cut.
        "allow_rnn": True,
        # A message that the model's forward prints is not a reason to cut the graph. Nor should it appear
        # (and, where it appears only once, be used up) while nobody trains.
        "ignore_logging_functions": {print, warnings.warn, *_logging_methods()},
    }


def _logging_methods() -> list[Callable[..., Any]]:
    """The methods of Logger that emit, with those that libraries add, such as ``warning_once``."""
    standard = ("debug", "info", "warning", "error", "exception", "critical", "fatal", "log")
    return [
        method
        for name, method in vars(logging.Logger).items()
        if callable(method) and (name in standard or getattr(method, "__module__", "") != "logging")
    ]


def _graph(module: fx.GraphModule) -> Graph:
    graph = Graph(module, "dynamo")
    find_nested(graph)
    return graph


def _with_nested(graph: Graph) -> list[Graph]:
    children = [nested.graph for calls in graph.nested.values() for nested in calls]
    return [graph, *(deeper for child in children for deeper in _with_nested(child))]


def _annotate(graph: Graph, paths: dict[int, str], frame: str) -> None:
    """Writes the path of the innermost module on every node.

    Dynamo's record of the modules a call was made in is keyed by their ids, with "@1" after it for a second
    call. It starts at the frame that was compiled: after a graph break, that is the forward of some inner
    module.
    """
    for each in _with_nested(graph):
        for node in each.nodes:
            keys = (str(key).partition("@")[0] for key in node.meta.get("nn_module_stack") or {})
            known = [paths[int(key)] for key in keys if key.isdigit() and int(key) in paths]
            node.meta[MODULE] = known[-1] if known else frame


# Dynamo names what a frame uses by how it is reached: "L['self'].layer1.0.weight".
_VARIABLE = re.compile(r"^[LG]\['\w+'\]\.?")
_CONTAINER = re.compile(r"\._(?:modules|parameters|buffers)\['([^']+)'\]")


def _source_names(module: fx.GraphModule) -> list[str]:
    """Returns by which path the compiled function reached each of its inputs: ``layer1.0.weight``."""
    names = []
    for node in module.graph.nodes:
        if node.op == "placeholder":
            source = getattr(node.meta.get("grapharg"), "source", None)
            names.append(_VARIABLE.sub("", _CONTAINER.sub(r".\1", str(getattr(source, "name", "")))))
    return names


def _frame_path(sources: list[str], names: list[str]) -> str:
    """Returns the path of the module whose method was compiled: what the names it uses lack.

    A plain function that is handed parameters belongs to the innermost module that has them all.
    """
    found = [
        name[: -len(source) - 1]
        for source, name in zip(sources, names, strict=True)
        if source and name and (name == source or name.endswith(f".{source}"))
    ]
    if not found:
        owners = [name.split(".")[:-1] for name in names if name]
        found = [".".join(os.path.commonprefix(owners))] if owners else []
    return min(found, key=len, default="")


def _name_tensors(graph: Graph, names: list[tuple[str | None, str | None]]) -> None:
    """Names the placeholders of parameters and buffers, in nested graphs too."""
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for node, (parameter, buffer) in zip(placeholders, names, strict=True):
        if parameter is not None:
            node.meta[PARAMETER] = parameter
        elif buffer is not None:
            node.meta[BUFFER] = buffer
    for calls in graph.nested.values():
        for nested in calls:
            given = [{} if source is None else source.meta for source in nested.inputs.values()]
            _name_tensors(nested.graph, [(meta.get(PARAMETER), meta.get(BUFFER)) for meta in given])


def _copied(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy with nodes of its own, in nested graphs too; values are shared."""
    copied = fx.GraphModule(module, copy.deepcopy(module.graph))
    for name, child in module.named_children():
        if isinstance(child, fx.GraphModule):
            setattr(copied, name, _copied(child))
    return copied


def _moves(before: list[str], now: list[str]) -> dict[str, str]:
    """Returns which module paths of the layer a graph was recorded in are which of the layer it ran in now.

    The two layers have the same structure, so where ``blocks.0.fc.weight`` became ``blocks.1.fc.weight``,
    every path ``blocks.0...`` became ``blocks.1...``.
    """
    moved: dict[str, str] = {}
    for old, new in zip(before, now, strict=True):
        while old and new:
            moved.setdefault(old, new)
            (old, _, old_last), (new, _, new_last) = old.rpartition("."), new.rpartition(".")
            if old_last != new_last:
                break
    return moved


def _relabel(graph: Graph, moved: dict[str, str]) -> None:
    """Rewrites the module path of every node; the longest known beginning of the path decides."""
    for each in _with_nested(graph):
        for node in each.nodes:
            head, tail = node.meta.get(MODULE, ""), ""
            while head and head not in moved:
                head, _, last = head.rpartition(".")
                tail = f".{last}{tail}"
            node.meta[MODULE] = (moved.get(head, head) + tail).lstrip(".")
            for key in (PARAMETER, BUFFER):
                node.meta.pop(key, None)
