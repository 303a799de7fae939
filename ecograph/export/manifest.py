"""What the folder of an export says about itself, in JSON: how the graphs are called, and what is sparse in them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ecograph.export.sites import ExportedSite
from ecograph.export.slices import ExportedSlice

#: Of the file; and the key of the same text in the metadata of the training graph.
FILE, METADATA = "ecograph.json", "ecograph"
FORMAT = 3
#: The other files.
TRAINING, EVAL, OPTIMIZER = "training_model.onnx", "eval_model.onnx", "optimizer_model.onnx"
CHECKPOINT = "checkpoint"
#: The training graph of the full network, where the other has slices of it.
FULL = "full_training_model.onnx"


@dataclass(frozen=True)
class Input:
    """One input of the graphs.

    Attributes:
        name: of the graphs' input.
        dtype: ``"float32"``, ...
        shape: its sizes; None where they may vary.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything that the trainer must know.

    Attributes:
        model: class name of the PyTorch model.
        loss: its name.
        classes: labels are below this; None where the targets are no labels.
        ignore_index: the label that does not count, if any.
        optimizer: name, lr and options.
        inputs: of the model, then the targets.
        has_targets: whether the last of the inputs is the targets.
        parameters: names of those that are trained.
        frozen: names of those that are not.
        statistics: names of running statistics.
        velocities: names of the velocities of SGD with momentum.
        counts: buffers that count steps, and their values at the export.
        aliases: other names of tied parameters, with the name they are exported under.
        passes: of the optimized model, in JSON form.
        sites: products with a sparse backward.
        sparse: indices of the sites whose gradient is in the graph.
        slices: channel groups that the training graph has slices of.
        full_sites: where there are any, ``sites`` of the graph of the full network.
    """

    model: str
    loss: str
    classes: int | None
    ignore_index: int | None
    optimizer: dict[str, Any]
    inputs: list[Input]
    has_targets: bool
    parameters: list[str]
    frozen: list[str]
    statistics: list[str]
    velocities: list[str]
    counts: dict[str, int]
    aliases: dict[str, str]
    passes: list[dict[str, Any]]
    sites: list[ExportedSite]
    sparse: list[int]
    slices: list[ExportedSlice]
    full_sites: list[ExportedSite]

    def graphs(self) -> dict[str, list[ExportedSite]]:
        """Returns the files of the training graphs, each with its sites; the second is that of the full network."""
        return {TRAINING: self.sites} | ({FULL: self.full_sites} if self.slices else {})

    def to_json(self) -> str:
        """Returns it as a JSON object."""
        return json.dumps({"format": FORMAT, "ecograph": version("ecograph"), **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Returns what :meth:`to_json` wrote.

        Raises:
            ValueError: for another format.
        """
        data: dict[str, Any] = json.loads(text)
        found = data.pop("format", None)
        if found != FORMAT:
            raise ValueError(f"format {found!r} of {FILE} is not {FORMAT}: export the model again with this ecograph")
        data.pop("ecograph", None)
        data["inputs"] = [Input(i["name"], i["dtype"], tuple(i["shape"])) for i in data["inputs"]]
        for sites in ("sites", "full_sites"):
            data[sites] = [ExportedSite(**{**s, "grads": tuple(s["grads"])}) for s in data[sites]]
        data["slices"] = [ExportedSlice(**each) for each in data["slices"]]
        return cls(**data)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Returns the manifest of a folder.

        Raises:
            ValueError: where it holds no export.
        """
        try:
            text = (folder / FILE).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{folder}: no export of ecograph ({FILE}: {error.strerror})") from error
        return cls.from_json(text)
