"""What is in a training graph: inputs, channel groups that are sliced, layers whose backward is sparse, operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecograph.tools.errors import UserError, one_line, user_errors

if TYPE_CHECKING:
    import onnx
    from rich.console import Console, ConsoleOptions, RenderResult

    from ecograph.export.manifest import Manifest
    from ecograph.export.slices import ExportedSlice


@dataclass(frozen=True)
class SparseLayer:
    """A layer whose backward is sparse in the graph.

    Attributes:
        name: of the layer.
        kind: ``"conv"`` or ``"linear"``.
        channels: output channels, of all groups.
        kept: of them, at the schedule's peak.
        gradients: those that are sparse: ``"input, weight"``.
        node: the ``If`` that chooses between the sparse gradient and the dense one.
    """

    name: str
    kind: str
    channels: int
    kept: int
    gradients: str
    node: str


@dataclass(frozen=True)
class TrainingGraph:
    """A training graph as ``inspect`` shows it.

    Attributes:
        path: of the file.
        inputs: of the user's, as text: ``"x: any x 3 x 32 x 32"``.
        manifest: what ecograph wrote into the graph; None for graphs of others.
        layers: those that are sparse.
        slices: channel groups of which the graph has slices.
        operators: name of each operator -> how often, branches included.
        parameters: how many numbers are trained.
    """

    path: Path
    inputs: list[str]
    manifest: Manifest | None
    layers: list[SparseLayer]
    slices: list[ExportedSlice]
    operators: dict[str, int]
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        about = None if self.manifest is None else {**asdict(self.manifest)}
        return {
            "file": str(self.path),
            "inputs": self.inputs,
            "parameters": self.parameters,
            "sparse_layers": [asdict(layer) for layer in self.layers],
            "slices": [asdict(each) for each in self.slices],
            "operators": self.operators,
            "export": about,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields a few lines and the tables."""
        from rich.table import Table

        yield f"{self.path}: {self.parameters:,} parameters are trained"
        yield f"inputs: {'; '.join(self.inputs)}"
        if self.manifest is None:
            yield "not written by ecograph export: which gradients are sparse is not known"
        else:
            options_ = self.manifest.optimizer
            settings = ", ".join(f"{key}={value}" for key, value in options_["options"].items())
            settings = f"lr={options_['lr']:g}{', ' if settings else ''}{settings}"
            yield f"{self.manifest.model}, loss {self.manifest.loss}, optimizer {options_['name']} ({settings})"
            yield f"passes: {'; '.join(map(_pass_text, self.manifest.passes)) or 'none'}"
        if self.slices:
            table = Table(title="Channel groups of which a step sees a slice", title_justify="left")
            table.add_column("group")
            for column in ("units", "of the slice", "elements of a unit"):
                table.add_column(column, justify="right")
            for each in self.slices:
                table.add_row(each.name, str(each.units), str(each.width), str(each.inner))
            yield table
        if self.layers:
            table = Table(title="Layers with a sparse backward", title_justify="left")
            for column in ("layer", "kind", "channels", "kept at peak", "sparse gradients", "node"):
                table.add_column(column, justify="right" if column in ("channels", "kept at peak") else "left")
            for layer in self.layers:
                table.add_row(layer.name, layer.kind, str(layer.channels), str(layer.kept), layer.gradients, layer.node)
            yield table
        elif self.manifest is not None:
            yield "no layer has a sparse backward"
        common = sorted(self.operators.items(), key=lambda item: (-item[1], item[0]))
        yield "operators: " + ", ".join(f"{name} {count}" for name, count in common)


def read_training_graph(path: Path) -> TrainingGraph:
    """Reads a graph without its weights.

    Raises:
        UserError: where there is none, or the extra is missing.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(f'SPEC {str(path)!r}: reading ONNX needs the extra: pip install "ecograph[onnx]"') from error
    from ecograph import registry
    from ecograph.export.artifacts import shape_of
    from ecograph.export.manifest import METADATA, Manifest
    from ecograph.export.slices import STARTS

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise UserError(f"SPEC {str(path)!r}: {error.strerror or one_line(error)}") from error
    except DecodeError as error:
        raise UserError(f"SPEC {str(path)!r} is no ONNX file: {one_line(error)}") from error
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA), None)
    with user_errors(f"SPEC {str(path)!r}: "):
        manifest = None if text is None else Manifest.from_json(text)
        passes = [] if manifest is None else [registry.from_dict(options) for options in manifest.passes]
    buffers = {value.name for value in model.graph.input if value.name.endswith(".accumulation.buffer")}
    trained = {name.removesuffix("_grad.accumulation.buffer") for name in buffers}
    # The graph of the full network has the same manifest.
    sliced = manifest is not None and any(value.name == STARTS for value in model.graph.input)
    given, parameters = [], 0
    held = set() if manifest is None else {*manifest.frozen, *manifest.statistics, *manifest.velocities}
    for value in model.graph.input:
        shape = shape_of(value)
        if value.name in trained:
            parameters += _count(shape)
        elif value.name not in buffers | held | {"lazy_reset_grad"}:
            sizes = " x ".join("any" if size is None else str(size) for size in shape)
            given.append(f"{value.name}: {sizes or 'a number'}")
    layers = []
    for index in [] if manifest is None else manifest.sparse:
        assert manifest is not None
        site = (manifest.full_sites if manifest.slices and not sliced else manifest.sites)[index]
        pass_ = passes[site.pass_index]
        sparse = [name for name, yes in zip(("input", "weight"), site.grads, strict=True) if yes]
        layers.append(
            SparseLayer(
                site.name,
                site.kind,
                site.groups * site.channels,
                site.groups * pass_.kept(site.channels, pass_.make_rate().peak),
                ", ".join(sparse),
                _node_of(model, index),
            )  # fmt: skip
        )
    operators = Counter(node.op_type for node in _all_nodes(model.graph))
    slices = manifest.slices if manifest is not None and sliced else []
    return TrainingGraph(path, given, manifest, layers, slices, dict(operators), parameters)


def _node_of(model: onnx.ModelProto, index: int) -> str:
    from ecograph.export.sites import PREFIX

    prefix = f"{PREFIX}{index}.sparse/"
    return next(str(n.name) for n in model.graph.node if n.op_type == "If" and n.name.startswith(prefix))


def _all_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _count(shape: tuple[int | None, ...]) -> int:
    count = 1
    for size in shape:
        count *= size or 1
    return count


def _pass_text(options: dict[str, Any]) -> str:
    values = ", ".join(f"{key}={value}" for key, value in options.items() if key != "name")
    return f"{options['name']}({values})"
