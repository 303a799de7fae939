"""The front door of the export: forward, gradients, sparse backward, files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ecograph.export.artifacts import check, describe, differentiate, eval_graph, new_folder, save, shape_of
from ecograph.export.batch import Batch, make_batch
from ecograph.export.forward import OUTPUT, Forward, add_statistics, export_forward
from ecograph.export.gradients import (
    add_velocities,
    make_sparse,
    put_momentum,
    replace_conv_transpose_grad,
    replace_relu_grad,
)
from ecograph.export.losses import Loss, find_loss
from ecograph.export.manifest import EVAL, FULL, TRAINING, Input, Manifest
from ecograph.export.optimizers import OptimizerSpec, find_optimizer
from ecograph.export.requirements import check_installed
from ecograph.export.sites import check_exportable, settle
from ecograph.export.step_module import counted
from ecograph.guards import check_model
from ecograph.record import records

if TYPE_CHECKING:
    import onnx


def export_onnx_training(
    model: nn.Module,
    example_inputs: Any,
    *,
    loss: Any = "cross_entropy",
    optimizer: Any = "adamw",
    path: str | os.PathLike[str],
    example_targets: Any = None,
) -> Path:
    """Writes a model as files that ONNX Runtime trains, with the sparse backward inside the training graph.

    An optimized model is exported with the sparse backward of every layer that ``optimize`` gave one. How many channels
    they keep is an input of the graph; :class:`~ecograph.export.OrtTrainer` sets it by the model's schedule. Where
    channel groups are sliced, the starts of the slices are an input too, and their width is that of the peak rate; a
    second graph takes the steps of the full network.

    Args:
        model: float32, optimized or not. It is left as it is. Modules in eval mode within a model in training mode stay
            in eval mode.
        example_inputs: what the model is called with; see :func:`ecograph.optimize`. The size of their first dimension
            may be another in training, where the model allows it.
        loss: ``"cross_entropy"`` (scores ``(N, C, ...)``, labels ``(N, ...)``), ``"token_cross_entropy"`` (scores
            ``(N, ..., C)``), ``"mse"``, ``"bce"`` (scores and targets of one shape), ``"model"`` where the model's
            output is or holds the loss; a function ``(output, targets) -> scalar``.
        optimizer: ``"adamw"``, ``"sgd"``, or an instance of ``torch.optim.AdamW`` or ``SGD`` whose settings are taken;
            momentum, weight decay and Nesterov of SGD become part of the training graph.
        path: the folder to make.
        example_targets: a batch of targets; needed for a loss function of your own.

    Returns:
        The folder: ``training_model.onnx``, ``eval_model.onnx``, ``optimizer_model.onnx``, ``checkpoint`` and
        ``ecograph.json``; with slices, ``full_training_model.onnx``.

    Raises:
        ImportError: where the extra ``onnx`` is missing, with what to install.
        ValueError: for what cannot be exported, with the operator and the layer; nothing is written then.
    """
    check_installed()
    check_model(model)
    check_exportable(model)
    _check_dtypes(model)
    chosen, spec = find_loss(loss), find_optimizer(optimizer)
    folder = Path(path)
    with new_folder(folder) as partial:
        batch = make_batch(model, example_inputs, chosen, example_targets)
        settle(model, batch.args, batch.kwargs)
        forward = export_forward(model, batch, chosen, training=True)
        if not forward.parameters:
            raise ValueError(f"{type(model).__name__} has no parameter that is trained: set requires_grad")
        forwards = {TRAINING: forward}
        if forward.slices:
            forwards[FULL] = export_forward(model, batch, chosen, training=True, whole=True)
        evaluated = export_forward(model, batch, chosen, training=False)
        _hold_statistics(forwards, evaluated, model)
        if spec.options.get("momentum") and spec.name == "sgd":
            for each in (*forwards.values(), evaluated):
                each.velocities.extend(add_velocities(each.model, forward.parameters))
        graphs, sparse = {}, cast(list[int], [])
        for name, each in forwards.items():
            graphs[name], sparse = _training_graph(each, spec, partial, len(batch.names))
        save(eval_graph(evaluated), partial / EVAL)
        manifest = _manifest(model, batch, chosen, spec, forwards, evaluated, sparse)
        describe([*graphs.values()], manifest, partial)
        for name, graph in graphs.items():
            save(graph, partial / name)
        check(partial, manifest, forward)
    return folder


def _training_graph(
    forward: Forward, spec: OptimizerSpec, folder: Path, inputs: int
) -> tuple[onnx.ModelProto, list[int]]:
    """Returns the training graph of a forward, and which of its sites have a gradient; see :func:`make_sparse`."""
    training = differentiate(forward, spec, folder)
    sparse = make_sparse(training, forward.sites, inputs=inputs + bool(forward.slices))
    replace_conv_transpose_grad(training.graph)
    replace_relu_grad(training.graph)
    if spec.name == "sgd":
        put_momentum(training, spec.options)
    return training, sparse


def _check_dtypes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(f"{name} is {parameter.dtype}: ONNX Runtime trains float32 here; call model.float()")
        if parameter.device.type == "meta":
            raise ValueError(f"{name} is on the meta device, without values: make the model on the CPU")


def _hold_statistics(forwards: dict[str, Forward], evaluated: Forward, model: nn.Module) -> None:
    """Gives all graphs the statistics under the same names, so that one checkpoint serves them."""
    values = dict(model.named_buffers())
    for forward in forwards.values():
        add_statistics(forward.model, {name: values[name] for name in forward.statistics})
    evaluated.statistics.extend(forwards[TRAINING].statistics)


def _manifest(
    model: nn.Module,
    batch: Batch,
    loss: Loss,
    optimizer: OptimizerSpec,
    forwards: dict[str, Forward],
    evaluated: Forward,
    sparse: list[int],
) -> Manifest:
    forward = forwards[TRAINING]
    outputs = {value.name: shape_of(value) for value in evaluated.model.graph.output}
    graph_inputs = {value.name: shape_of(value) for value in forward.model.graph.input}
    own = {*forward.parameters, *forward.frozen}
    by_identity: dict[int, str] = {}
    aliases = {}
    named = list(model.named_parameters(remove_duplicate=False))
    for name, parameter in named:
        if name in own:
            by_identity.setdefault(id(parameter), name)
    for name, parameter in named:
        if name not in own and id(parameter) in by_identity:
            aliases[name] = by_identity[id(parameter)]
    buffers = dict(model.named_buffers())
    return Manifest(
        model=type(model).__name__,
        loss=loss.name,
        classes=None if loss.classes_dim is None else outputs[OUTPUT][loss.classes_dim],
        ignore_index=loss.ignore_index,
        optimizer=optimizer.to_dict(),
        inputs=[
            Input(name, str(tensor.dtype).removeprefix("torch."), graph_inputs[name])
            for name, tensor in zip(batch.names, batch.tensors, strict=True)
        ],
        has_targets=bool(batch.targets),
        parameters=forward.parameters,
        frozen=forward.frozen,
        statistics=forward.statistics,
        velocities=forward.velocities,
        counts={name: int(buffers[name]) for name in counted(model) if _counts(name, forward)},
        aliases=aliases,
        passes=[options for record in records(model) for options in record.passes],
        sites=forward.sites,
        sparse=sparse,
        slices=forward.slices,
        full_sites=forwards[FULL].sites if FULL in forwards else [],
    )


def _counts(name: str, forward: Forward) -> bool:
    return f"{name.rpartition('.')[0]}.running_mean".removeprefix(".") in forward.statistics
