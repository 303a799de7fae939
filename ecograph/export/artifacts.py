"""The files that ONNX Runtime trains from: three graphs, a checkpoint, and what they are about."""

from __future__ import annotations

import copy
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecograph.export.forward import Forward
from ecograph.export.manifest import EVAL, FILE, METADATA, OPTIMIZER, TRAINING, Manifest
from ecograph.export.optimizers import OptimizerSpec, as_torch, make_block
from ecograph.export.requirements import IR_VERSION, quiet_runtime, short
from ecograph.export.trial import TrialError, take_steps

if TYPE_CHECKING:
    import onnx


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder that becomes ``path`` if all goes well, and is gone if not.

    Raises:
        ValueError: where ``path`` exists or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists: give a new folder, or remove it")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        os.rename(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def differentiate(forward: Forward, optimizer: OptimizerSpec, folder: Path) -> onnx.ModelProto:
    """Has ONNX Runtime build the gradients, writes optimizer and checkpoint, and returns the training graph.

    Raises:
        ValueError: for an operator that has no gradient; names it and the modules that it comes from.
    """
    import onnx
    from onnxruntime.training import artifacts

    model = copy.deepcopy(forward.model)
    with quiet_runtime():
        try:
            artifacts.generate_artifacts(
                model,
                requires_grad=forward.parameters,
                frozen_params=[*forward.frozen, *forward.statistics, *forward.velocities],
                loss=None,  # it is the graph's first output
                optimizer=make_block(optimizer),
                artifact_directory=folder,
            )
        except Exception as error:
            raise ValueError(_why(error, forward)) from error
    made = onnx.load(folder / OPTIMIZER)
    as_torch(made)
    save(made, folder / OPTIMIZER)
    training = onnx.load(folder / TRAINING)
    return training


def _why(error: Exception, forward: Forward) -> str:
    """Returns in one line what ONNX Runtime could not differentiate, and where it came from."""
    found = re.search(r"gradient builder has not been registered: ?(\w+)|::Get(\w+)Gradient::", str(error))
    if found is None:
        return f"ONNX Runtime cannot build the gradients: {short(error)}"
    operator = found[1] or found[2]
    paths = [forward.modules.get(n.name, "") for n in forward.model.graph.node if n.op_type == operator]
    where = ", ".join(dict.fromkeys(path or "the model" for path in paths)) or "the model"
    if found[2]:
        return f"{operator} in {where}: {operator} gradient {short(error).rpartition('gradient')[2].strip()}"
    return (
        f"{operator} in {where} has no gradient in ONNX Runtime: replace it by operations that have one, or freeze all "
        "layers before it"
    )


def eval_graph(forward: Forward) -> onnx.ModelProto:
    """Returns the graph of eval mode, with parameters and statistics as inputs, as the checkpoint gives them."""
    from onnx import helper

    model = copy.deepcopy(forward.model)
    given = {*forward.parameters, *forward.frozen, *forward.statistics, *forward.velocities}
    constants = []
    for initializer in model.graph.initializer:
        if initializer.name in given:
            value = helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims)
            model.graph.input.append(value)
        else:
            constants.append(initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a graph in a version that ONNX Runtime training can load."""
    import onnx

    model.ir_version = min(model.ir_version, IR_VERSION)
    onnx.save(model, path)


def describe(graphs: Sequence[onnx.ModelProto], manifest: Manifest, folder: Path) -> None:
    """Writes the manifest, into the folder and into the training graphs."""
    text = manifest.to_json()
    (folder / FILE).write_text(text, encoding="utf-8")
    for training in graphs:
        entry = training.metadata_props.add()
        entry.key, entry.value = METADATA, text


def check(folder: Path, manifest: Manifest, forward: Forward) -> None:
    """Checks the graphs as ONNX, and takes a step with each training graph and one eval step, in another process.

    Args:
        folder: with all files.
        manifest: what is in them.
        forward: that the graphs were made of.

    Raises:
        ValueError: where a graph is no valid ONNX or a step fails.
    """
    import onnx

    for name in (*manifest.graphs(), EVAL, OPTIMIZER):
        try:
            onnx.checker.check_model(_as_standard(onnx.load(folder / name)))
        except onnx.checker.ValidationError as error:
            raise ValueError(f"{name} is not valid: {' '.join(str(error).split())[:400]}") from error
    try:
        # A batch of another size than the example's, where that was taken for a constant.
        take_steps(folder, manifest, batch_size=3 if forward.fixed_batch == 2 else 2)
    except TrialError as error:
        why = f"the first training step fails{_place(str(error), forward.modules)}: {error}"
        if forward.fixed_batch is not None:
            why = (
                f"the forward works for batches of {forward.fixed_batch} alone, since it makes a number of Python of "
                f"the batch size, as len(x) does: take x.shape[0] in its place ({why})"
            )
        raise ValueError(why) from error


def _place(text: str, modules: dict[str, str]) -> str:
    """Returns the module behind the node that an error names, if it names one."""
    found = re.search(r"(?:Name:|with name )'([^']+)'|Node \(([^)]+)\)", text)
    if found is None:
        return ""
    node = re.split(r"_Grad/|\.(?:then|else|sparse)/", found[1] or found[2])[0]
    return f", in {modules[node] or 'the model'}" if node in modules else ""


def _as_standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """Moves ONNX Runtime's own operators out of ONNX's domain, where it puts some, so that the rest can be checked."""
    import onnx

    version = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        if node.domain == "" and node.op_type.endswith("Grad") and not onnx.defs.has(node.op_type, version):
            node.domain = "com.microsoft"
    return model


def shape_of(value: Any) -> tuple[int | None, ...]:
    """Returns the sizes of a graph's input or output; None for those that may vary."""
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
