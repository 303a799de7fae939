"""The model's forward with its loss, as an ONNX graph with parameters and statistics under the model's own names."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ecograph.export.batch import Batch, dynamic_shapes, fixed_batch
from ecograph.export.differentiable import make_differentiable
from ecograph.export.losses import Loss
from ecograph.export.requirements import IR_VERSION, OPSET
from ecograph.export.sites import PREFIX, ExportedSite, marked
from ecograph.export.slices import STARTS, ExportedSlice, Slices
from ecograph.export.step_module import MODEL, StepForward, statistics
from ecograph.export.translations import translations

if TYPE_CHECKING:
    import onnx

#: Names of the outputs.
LOSS, OUTPUT = "loss", "output"
#: Before the name of a statistic, for its value after the step.
NEW = "new."


@dataclass(frozen=True)
class Forward:
    """An exported forward.

    Attributes:
        model: the graph; parameters and statistics are its initializers.
        parameters: names of those that are trained.
        frozen: names of those that are not.
        statistics: names of the running statistics.
        velocities: names of what SGD with momentum keeps, one for each of ``parameters``; else none.
        sites: products whose backward is to be sparse; the nodes are called ``ecograph.site.<index>``.
        slices: channel groups that are sliced; where, the input ``ecograph.starts`` says.
        modules: for every node, the path of the module it came from.
        fixed_batch: the batch size, where tracing took it for a constant: the forward made a number of Python of it.
    """

    model: onnx.ModelProto
    parameters: list[str]
    frozen: list[str]
    statistics: list[str]
    velocities: list[str]
    sites: list[ExportedSite]
    slices: list[ExportedSlice]
    modules: dict[str, str]
    fixed_batch: int | None = None


def export_forward(model: nn.Module, batch: Batch, loss: Loss, *, training: bool, whole: bool = False) -> Forward:
    """Exports the forward in training or eval mode; the model is as before afterwards.

    Args:
        model: to export.
        batch: what it is called with.
        loss: of the training.
        training: which mode.
        whole: the whole network, where groups are sliced in training.

    Raises:
        ValueError: where the model cannot be exported; names the operator and the module.
    """
    found = Slices(model)
    with _mode(model, training), found.cut(whole) as slices:
        held = statistics(model)
        step = StepForward(model, loss, found, with_output=not training)
        step.training = training
        starts = [torch.zeros(len(slices), dtype=torch.int64)] if slices else []
        inputs = (batch.args, batch.kwargs, batch.targets, starts, held)
        shapes = dynamic_shapes(batch, starts, held)
        with marked(model) as sites, _quiet():
            try:
                traced = torch.export.export(step, inputs, dynamic_shapes=shapes, strict=False)
                program: Any = torch.onnx.export(
                    traced, dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
                    custom_translation_table=translations(training),
                )  # fmt: skip
                _check_buffers(program.exported_program, model)
            except ValueError:
                raise
            except Exception as error:
                raise ValueError(_why(error, model)) from error
        aliases = _aliases(model)
        changing = [name for name, _ in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
        proto = _cleaned(program, [f"{MODEL}.{name}" for name in (*aliases, *changing)])
        modules = _modules(proto)
        _rename_tensors(proto, [*batch.names, *([STARTS] if slices else [])], list(held), training)
        _name_sites(proto, sites, modules)
        _drop_zero_biases(proto)
        make_differentiable(proto)
        own = {initializer.name for initializer in proto.graph.initializer}
        named = model.named_parameters(remove_duplicate=False)
        trained = {name for name, parameter in named if parameter.requires_grad}
        parameters = [name for name in aliases if name in own]
        return Forward(
            model=proto,
            parameters=[name for name in parameters if name in trained],
            frozen=[name for name in parameters if name not in trained],
            statistics=list(held),
            velocities=[],
            sites=list(sites),
            slices=slices,
            modules=modules,
            fixed_batch=fixed_batch(traced, batch),
        )


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Puts the model in eval mode, or in training mode if it is not in it; modules frozen within it stay so."""
    modes = [(module, module.training) for module in model.modules()]
    if not training or not model.training:
        model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the exporter says about itself; what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_buffers(decomposed: torch.export.ExportedProgram, model: nn.Module) -> None:
    """Raises ValueError where the forward changes a buffer that is no running statistic."""
    for name in (each.removeprefix(f"{MODEL}.") for each in decomposed.graph_signature.buffers_to_mutate.values()):
        raise ValueError(
            f"the forward changes the buffer {name}, which is no running statistic of a norm: an exported graph cannot "
            "do that; leave it as it is in training mode"
        )


def _aliases(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def _why(error: Exception, model: nn.Module) -> str:
    """Returns in one line which operator of which module could not be exported."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = "\n".join(str(each) for each in chain)
    scope = re.findall(r"class_hierarchy|nn_module_stack.*?'L\['self'\]\.([\w.]+)'", text)
    operator = re.search(r"(?:function for|node) %?(?:\w+ : \[.*?target=)?(?:torch\.ops\.)?(aten[.:]+[\w.]+)", text)
    last = next((str(each).strip().splitlines()[0] for each in reversed(chain) if str(each).strip()), str(error))
    where = f" in {scope[-1].removeprefix('model.')}" if scope and scope[-1] else ""
    what = f": {operator[1]}{where} has no translation to ONNX" if operator else ""
    return f"{type(model).__name__} cannot be exported{what}: {last[:300]}"


def _cleaned(program: Any, changing: list[str]) -> onnx.ModelProto:
    """Returns the graph with functions inlined and constants folded; what changes in training is none."""
    import onnx_ir
    from onnxscript import optimizer

    model = program.model
    graph = model.graph
    kept = {name: graph.initializers.pop(name) for name in changing if name in graph.initializers}
    values = {name: (value, value.const_value) for name, value in kept.items()}
    for value, _ in values.values():
        value.const_value = None
        graph.inputs.append(value)
    optimizer.inline(model)
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    for value, tensor in values.values():
        graph.inputs.remove(value)
        value.const_value = tensor
        graph.initializers[value.name] = value
    model.ir_version = IR_VERSION
    proto = onnx_ir.to_proto(model)
    assert proto is not None
    return proto  # type: ignore[no-any-return]


def _modules(proto: onnx.ModelProto) -> dict[str, str]:
    """Returns for each node the path of the module in whose forward it was called."""
    found = {}
    for node in proto.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        paths = [path for path in re.findall(r"'([^']*)'", scopes)[:-1] if path.startswith(f"{MODEL}.")]
        found[node.name] = paths[-1].removeprefix(f"{MODEL}.") if paths else ""
    return found


def rename(proto: onnx.ModelProto, names: dict[str, str]) -> None:
    """Gives tensors other names, wherever they occur."""
    graph = proto.graph
    for node in graph.node:
        for tensors in (node.input, node.output):
            for i, name in enumerate(tensors):
                if name in names:
                    tensors[i] = names[name]
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)


def _rename_tensors(proto: onnx.ModelProto, given: list[str], held: list[str], training: bool) -> None:
    """Names inputs and outputs, and makes statistics initializers, so that they are kept like parameters."""
    from onnx import helper

    graph = proto.graph
    inputs = [value.name for value in graph.input]
    assert len(inputs) == len(given) + len(held), (inputs, given, held)
    outputs = [value.name for value in graph.output]
    news = outputs[-len(held) :] if held else []
    shown = [LOSS] if training else [LOSS, OUTPUT]
    # An output that is another tensor's too needs a name of its own.
    final = [*shown, *(NEW + name for name in held)]
    for old, new in zip(outputs, final, strict=True):
        graph.node.append(helper.make_node("Identity", [old], [f"ecograph.out.{new}"], name=f"ecograph.out.{new}"))
    for value, new in zip(graph.output, final, strict=True):
        value.name = f"ecograph.out.{new}"
    names = {f"ecograph.out.{new}": new for new in final}
    names |= dict(zip(inputs, [*given, *held], strict=True))
    names |= {i.name: i.name.removeprefix(f"{MODEL}.") for i in graph.initializer if i.name.startswith(f"{MODEL}.")}
    taken = {*names.values()}
    clash = {n for node in graph.node for n in node.output if n in taken and n not in names}
    names |= {name: f"{name}.of_graph" for name in clash}
    rename(proto, names)
    del graph.input[len(given) :]
    assert len(news) == len(held)


def add_statistics(proto: onnx.ModelProto, values: dict[str, Any]) -> None:
    """Puts the running statistics into the graph, as initializers."""
    from onnx import numpy_helper

    for name, value in values.items():
        proto.graph.initializer.append(numpy_helper.from_array(value.detach().cpu().numpy().copy(), name))


def _name_sites(proto: onnx.ModelProto, sites: list[ExportedSite], modules: dict[str, str]) -> None:
    """Takes the marks out, and calls the products before them ``ecograph.site.<index>``.

    The gradients that ONNX Runtime builds are named after the node they belong to.
    """
    graph = proto.graph
    by_output = {name: node for node in graph.node for name in node.output}
    gone: dict[str, str] = {}
    for node in [n for n in graph.node if n.domain == "ecograph" and n.op_type == "Site"]:
        index = next(a.i for a in node.attribute if a.name == "index")
        product = by_output[node.input[0]]
        if product.op_type not in ("Gemm", "Conv", "ConvTranspose"):
            raise ValueError(
                f"{sites[index].name} became {product.op_type} in ONNX, whose gradient cannot be made sparse: leave it "
                f"out with optimize(..., skip=[{sites[index].name!r}])"
            )
        modules[f"{PREFIX}{index}"] = modules.get(product.name, "")
        product.name = f"{PREFIX}{index}"
        gone[node.output[0]] = node.input[0]
        graph.node.remove(node)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in gone:
                node.input[i] = gone[name]
    kept = [o for o in proto.opset_import if o.domain != "ecograph"]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _drop_zero_biases(proto: onnx.ModelProto) -> None:
    """Takes out the biases of zeros that the exporter gives to convolutions that have none."""
    from onnx import numpy_helper

    constants = {i.name: i for i in proto.graph.initializer if i.name.startswith("val_")}
    for node in proto.graph.node:
        bias = constants.get(node.input[2]) if node.op_type in ("Conv", "ConvTranspose") and node.input[2:] else None
        if bias is not None and not numpy_helper.to_array(bias).any():
            del node.input[2:]
    used = {name for node in proto.graph.node for name in node.input}
    kept = [copy.copy(i) for i in proto.graph.initializer if i.name in used or not i.name.startswith("val_")]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
