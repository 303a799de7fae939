"""One training graph at work: what it is given, the optimizer's step, and the statistics that come out new."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecograph.export.forward import NEW
from ecograph.export.gradients import KEEP, RANKS
from ecograph.export.manifest import EVAL, OPTIMIZER
from ecograph.export.sites import ExportedSite
from ecograph.export.slices import STARTS

Array = np.ndarray[Any, Any]


class StepGraph:
    """A training graph, with an optimizer for the gradients that it accumulates.

    Several of them share the parameters and the optimizer's state: those of the checkpoint.

    Args:
        folder: of the export.
        name: the file of the graph.
        state: the checkpoint.
        options: of ONNX Runtime's sessions.
        changing: names of the tensors of the checkpoint that the graph makes new in each step.
        sites: products with a sparse backward, as they are in this graph.
    """

    def __init__(
        self, folder: Path, name: str, state: Any, options: Any, changing: Sequence[str], sites: Sequence[ExportedSite]
    ) -> None:
        from onnxruntime.training import api

        self.sites = sites
        self._state = state
        self._module = api.Module(os.fspath(folder / name), state, os.fspath(folder / EVAL), session_options=options)
        self._optimizer = api.Optimizer(os.fspath(folder / OPTIMIZER), self._module)
        outputs = self._module.output_names()
        self._new = {name: outputs.index(NEW + name) for name in changing}
        self._choices = [name for name in self._module.input_names() if name in (STARTS, KEEP, RANKS)]

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate."""
        self._optimizer.set_learning_rate(lr)

    def train_step(self, batch: Sequence[Array], choices: Mapping[str, Callable[[], Array]]) -> float:
        """Takes one training step and returns the loss before it.

        Args:
            batch: inputs and targets.
            choices: for the graph's other inputs, what returns their values; only those that it has are called.
        """
        self._module.train()
        results = self._module(*batch, *(choices[name]() for name in self._choices))
        results = results if isinstance(results, tuple) else (results,)
        self._optimizer.step()
        self._module.lazy_reset_grad()
        parameters = self._state.parameters
        for name, index in self._new.items():
            parameters[name] = results[index]
        return float(results[0])

    def eval_step(self, batch: Sequence[Array]) -> tuple[float, Array]:
        """Returns loss and output in eval mode."""
        self._module.eval()
        loss, output = self._module(*batch)
        return float(loss), output
