"""Running an exported model with ONNX Runtime: steps, schedule, checkpoints, and back to PyTorch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ecograph import registry
from ecograph.export.choices import keep_counts, ranked
from ecograph.export.gradients import KEEP, RANKS
from ecograph.export.manifest import CHECKPOINT, Input, Manifest
from ecograph.export.requirements import check_installed, short
from ecograph.export.slices import STARTS, starts_of
from ecograph.export.step_graph import StepGraph
from ecograph.record import ATTRIBUTE, Record
from ecograph.schedule import Rate

if TYPE_CHECKING:
    from ecograph.loop import History

M = TypeVar("M", bound=nn.Module)

#: The property of a checkpoint that holds what is no tensor.
PROGRESS = "ecograph.progress"


class OrtTrainer:
    """Trains what :func:`ecograph.export_onnx_training` wrote.

    The drop rates follow the schedule of the model's passes: set by an :class:`ecograph.Scheduler`, which takes a
    trainer where it takes a model, or ticking with every step.

    Args:
        path: the folder of the export.
        checkpoint: a file that :meth:`save` wrote, to go on from.
        threads: of ONNX Runtime; torch's number if not given.
        seed: of the channels that are chosen at random.

    Attributes:
        manifest: what the export says about itself.
        rates: the drop rate of each pass.
        steps: training steps taken so far.

    Raises:
        ImportError: where ONNX Runtime training is missing.
        ValueError: where the folder holds no export, or the checkpoint does not fit it.

    Example:
        >>> trainer = OrtTrainer("exported")
        >>> scheduler = ecograph.Scheduler(trainer, epochs=30, steps_per_epoch=len(loader))
        >>> for images, labels in loader:
        ...     loss = trainer.train_step(images, targets=labels)
        ...     scheduler.step()
        >>> model = trainer.to_torch(model)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        check_installed()
        import onnxruntime
        from onnxruntime.training import api

        folder = Path(path)
        self.manifest = Manifest.read(folder)
        self._passes = [registry.from_dict(options) for options in self.manifest.passes]
        self.rates: list[Rate] = [pass_.make_rate() for pass_ in self._passes]
        self.steps = 0
        self._random = np.random.default_rng(seed)
        source = folder / CHECKPOINT if checkpoint is None else Path(checkpoint)
        if not source.is_file():
            raise ValueError(f"{source} is no checkpoint: give a file that OrtTrainer.save wrote")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        changing = [*self.manifest.statistics, *self.manifest.velocities]
        try:
            self._state = api.CheckpointState.load_checkpoint(source)
            self._graphs = [
                StepGraph(folder, name, self._state, options, changing, sites)
                for name, sites in self.manifest.graphs().items()
            ]
        except RuntimeError as error:
            raise ValueError(f"{source}: {short(error)}") from error
        self._starts = starts_of(self.manifest.slices, self._passes, self.rates)
        self._slicing = [self.rates[i] for i in sorted({each.pass_index for each in self.manifest.slices})]
        self.lr = self.manifest.optimizer["lr"]
        if PROGRESS in self._state.properties:
            self._go_on(json.loads(self._state.properties[PROGRESS]))
        # For a Scheduler, and whatever else asks a model what its passes do.
        self.__dict__[ATTRIBUTE] = Record(
            passes=tuple(self.manifest.passes),
            rates=self.rates,
            mixes=[rate.mix for rate in self.rates],
            sites=[],
            other_flops=None,
            parts=[],
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = float(value)
        for graph in self._graphs:
            graph.set_lr(self._lr)

    def train_step(self, *inputs: Any, targets: Any = None) -> float:
        """Takes one training step and returns the loss of the batch before it.

        Args:
            inputs: tensors or arrays, in the order of the example inputs (keyword inputs after the others).
            targets: of the loss; none where the model computes it.

        Raises:
            ValueError: for inputs that do not fit, such as labels out of range.
        """
        given = self._checked(inputs, targets)
        for rate in self.rates:
            if not rate.scheduled:
                rate.tick()
        graph = self._graph
        choices = {
            STARTS: lambda: np.array([each.start for each in self._starts], np.int64),
            KEEP: lambda: self._keep(graph),
            RANKS: lambda: self._random.random(ranked(graph.sites), np.float32),
        }
        loss = graph.train_step(given, choices)
        self.steps += 1
        return loss

    def eval_step(self, *inputs: Any, targets: Any = None) -> tuple[float, np.ndarray[Any, Any]]:
        """Returns the loss of a batch and the model's output, in eval mode: dense, and nothing changes.

        Raises:
            ValueError: for inputs that do not fit.
        """
        return self._graphs[0].eval_step(self._checked(inputs, targets))

    def kept(self) -> dict[str, int]:
        """Returns by layer how many output channels, per group, the next sparse backward keeps at the present rates."""
        graph = self._graph
        return {site.name: int(kept) for site, kept in zip(graph.sites, self._keep(graph), strict=True)}

    def slices(self) -> dict[str, tuple[int, int]]:
        """Returns by channel group the units, from the first on and up to the last, that the draws in force take."""
        if self._graph is not self._graphs[0]:
            return {}
        return {each.name: (each.start, each.start + each.width) for each in self._starts}

    @property
    def _graph(self) -> StepGraph:
        """What takes a step at the present rates: where groups are sliced, the full network is another graph.

        Raises:
            ValueError: at rates that no graph was made for.
        """
        if not any(rate.now for rate in self._slicing):
            return self._graphs[-1]
        for rate in self._slicing:
            if rate.now != rate.peak:
                raise ValueError(f"slices at the rate {rate.now:g} were not exported: set {rate.peak:g} or 0")
        return self._graphs[0]

    def _keep(self, graph: StepGraph) -> np.ndarray[Any, Any]:
        return keep_counts(graph.sites, self._passes, [rate.now for rate in self.rates])

    def _checked(self, inputs: tuple[Any, ...], targets: Any) -> list[np.ndarray[Any, Any]]:
        """Returns the inputs as arrays; ONNX Runtime's own messages name neither input nor fix."""
        manifest = self.manifest
        wanted = len(manifest.inputs) - manifest.has_targets
        if len(inputs) != wanted:
            names = ", ".join(each.name for each in manifest.inputs[:wanted])
            raise ValueError(f"{len(inputs)} inputs are given, and the model takes {wanted}: {names}")
        if manifest.has_targets != (targets is not None):
            raise ValueError(
                "targets are missing: give train_step(..., targets=labels)"
                if manifest.has_targets
                else "targets are given, but the model computes its loss from its inputs: leave them out"
            )
        given = [*inputs, *([targets] if manifest.has_targets else [])]
        arrays = [_array(value, want) for value, want in zip(given, manifest.inputs, strict=True)]
        for array, want in zip(arrays, manifest.inputs, strict=True):
            if not array.size:  # ONNX Runtime would end the process
                raise ValueError(f"{want.name} is {_in_words(array.shape)}: leave out batches without samples")
        sizes = {
            a.shape[0] for a, want in zip(arrays, manifest.inputs, strict=True) if want.shape and want.shape[0] is None
        }
        if len(sizes) > 1:
            raise ValueError(f"inputs and targets are of different batch sizes, {sorted(sizes)}")
        if manifest.classes is not None:
            self._check_labels(arrays[-1])
        return arrays

    def _check_labels(self, labels: np.ndarray[Any, Any]) -> None:
        """Raises ValueError for labels that are no class; in ONNX Runtime they read other memory."""
        classes, ignored = self.manifest.classes, self.manifest.ignore_index
        assert classes is not None
        wrong = (labels < 0) | (labels >= classes)
        if ignored is not None:
            wrong &= labels != ignored
        if wrong.any():
            raise ValueError(f"targets: label {int(labels[wrong][0])} is out of range: there are {classes} classes")

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, running statistics and step counts under the PyTorch model's names, as copies."""
        manifest, parameters = self.manifest, self._state.parameters
        names = [*manifest.parameters, *manifest.frozen, *manifest.statistics]
        state = {name: torch.from_numpy(parameters[name].data.copy()) for name in names}
        state |= {alias: state[name] for alias, name in manifest.aliases.items()}
        return state | {name: torch.tensor(count + self.steps) for name, count in manifest.counts.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts tensors of a PyTorch model in the place of the trainer's; names that it does not have are left out.

        Raises:
            ValueError: where one is missing or has another shape.
        """
        manifest = self.manifest
        names = (*manifest.parameters, *manifest.frozen, *manifest.statistics)
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"the state has no {missing[0]}: give that of the model that was exported")
        self.load_parameters({name: state[name] for name in names})

    def load_parameters(self, values: Mapping[str, Tensor]) -> None:
        """Puts tensors in the place of some of the trainer's.

        Raises:
            ValueError: where one has another shape.
        """
        parameters = self._state.parameters
        for name, value in values.items():
            array, shape = value.detach().cpu().numpy(), parameters[name].data.shape
            if array.shape != shape:
                raise ValueError(f"{name} is {array.shape}, and was {shape} when it was exported")
            parameters[name] = np.ascontiguousarray(array, np.float32)

    def to_torch(self, model: M) -> M:
        """Loads what was trained into a PyTorch model of the same structure, and returns it.

        Buffers that training does not change stay as they are.

        Raises:
            ValueError: where the names or shapes are not those of the exported model.
        """
        own, trained = model.state_dict(), self.state_dict()
        if unknown := [name for name in trained if name not in own]:
            raise ValueError(f"{type(model).__name__} has no {unknown[0]}: give the model that was exported")
        try:
            model.load_state_dict({**own, **trained}, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{type(model).__name__} does not fit: {' '.join(str(error).split())[-300:]}") from error
        return model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a checkpoint with the state of optimizer and schedule, whole or not at all; replaces an older one.

        Raises:
            ValueError: where it cannot be written.
        """
        from onnxruntime.training import api

        target = Path(path)
        self._state.properties[PROGRESS] = json.dumps(
            {
                "steps": self.steps,
                "lr": self.lr,
                "rates": [rate.state_dict() for rate in self.rates],
                "random": self._random.bit_generator.state,
            }
        )
        try:
            handle, partial = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
        except OSError as error:
            raise ValueError(f"{target} cannot be written: {error.strerror}") from error
        os.close(handle)
        try:
            api.CheckpointState.save_checkpoint(self._state, partial, include_optimizer_state=True)
            os.replace(partial, target)
        except (RuntimeError, OSError) as error:
            Path(partial).unlink(missing_ok=True)
            raise ValueError(f"{target} cannot be written: {error}") from error
        return target

    def _go_on(self, progress: dict[str, Any]) -> None:
        self.steps, self.lr = progress["steps"], progress["lr"]
        for rate, state in zip(self.rates, progress["rates"], strict=True):
            rate.load_state_dict(state)
        self._random.bit_generator.state = progress["random"]

    def fit(self, train_loader: Iterable[Any], *, epochs: int, **options: Any) -> History:
        """Trains for some epochs; see :func:`ecograph.export.fit.fit`."""
        from ecograph.export.fit import fit

        return fit(self, train_loader, epochs=epochs, **options)


def _array(value: Any, want: Input) -> np.ndarray[Any, Any]:
    """Returns an input as a contiguous array.

    Raises:
        ValueError: where its type or shape is another than that of the example.
    """
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype != want.dtype:
        raise ValueError(f"{want.name} is {array.dtype}, and was {want.dtype} when the model was exported: convert it")
    fits = array.ndim == len(want.shape) and all(
        size is None or size == own for own, size in zip(array.shape, want.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{want.name} is {_in_words(array.shape)}, and must be {_in_words(want.shape)}")
    return np.ascontiguousarray(array)


def _in_words(shape: Sequence[int | None]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape) or "a scalar"
