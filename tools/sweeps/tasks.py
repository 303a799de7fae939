"""Trainings of several tasks, made of a job of which some keys vary."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from ecograph.loop import Callback
from ecograph.sweeps.multitask import SEPARATE, TRUNK, model_of
from ecograph.sweeps.problem import Training
from ecograph.sweeps.space import Choice, Values
from ecograph.sweeps.tally import Tally, Targets
from ecograph.sweeps.target import Target
from ecograph.tools import data, own
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.jobs import Job
from ecograph.tools.jobs.read import make_job
from ecograph.tools.sweeps.problem import JobProblem, default_space
from ecograph.tools.training import Parts
from ecograph.tools.training.losses import find_loss

NEEDED = (
    "several targets need the user's own model, file.py:function with a parameter 'tasks': given the names of some "
    "tasks, it returns a model that returns a dict with an output for each"
)


@dataclass(frozen=True)
class TasksProblem(JobProblem):
    """A job of several tasks that varies, and so does whether they share a trunk.

    The job's model is a function that has a parameter ``tasks``. Its batches are ``(inputs, targets)``, the targets a
    dict by task; its loss and metric are one for all tasks, or the name of a dict by task.

    Attributes:
        targets: of the tasks.
    """

    targets: Targets = field(default_factory=lambda: Targets("val_margin", ">=", 0.0))

    #: A job for ``ecograph train`` knows no tasks.
    command = "sweep"

    @classmethod
    def with_targets(
        cls, targets: Targets, table: Mapping[str, Any], space: Mapping[str, Any], says: str
    ) -> TasksProblem:
        """Returns the problem; what is wrong with its parts is said at once.

        Args:
            targets: of the tasks.
            table: as :meth:`of` takes it.
            space: likewise; it gets a dimension ``trunk`` where it has none.
            says: likewise.

        Raises:
            UserError: as :meth:`of`, and for a model, loss or metric that does not fit the tasks.
        """
        job = make_job(table, says=says)
        whole = cls.of(table, {**TRUNK, **(space or default_space(job))}, says)
        made = cls(whole.table, whole.says, whole.space, targets)
        trunk = made.space.parameters["trunk"]
        if not isinstance(trunk, Choice) or not set(trunk.values) <= set(TRUNK["trunk"]):
            raise UserError(f"{says}: [sweep.space] trunk: give a list of {', '.join(TRUNK['trunk'])}")
        _check_model(job.model.spec)
        with user_errors(f"{says}: "):
            made._tally(job)
        return made

    def varied(self, values: Values) -> dict[str, Any]:
        """Returns the table of the job of a setting: the trunk has no place in it."""
        return super().varied({name: value for name, value in values.items() if name != "trunk"})

    def ready(self, values: Values, target: Target) -> dict[str, Any]:
        """See :class:`JobProblem`; here, it is a sweep of a single setting."""
        targets = {name: str(each) for name, each in self.targets.each.items()}
        once = {"trials": 1, "finalists": 0, "probes": False}
        return {**self.varied(values), "sweep": {"target": targets, **once, "space": {"trunk": [values["trunk"]]}}}

    def training(self, values: Values, *, seed: int, stop: str | None, callbacks: Sequence[Callback]) -> Training:
        """Makes a training; see ``ecograph.sweeps.Problem``."""
        try:
            job = self.job(values)
            tally = self._tally(job)
            judge = tally.judge(stop, callbacks)

            def build() -> nn.Module:
                model = model_of(tuple(self.targets.each), values["trunk"], partial(_model, job.model.spec))
                tally.follow(model)
                return model

            options = {"metric": judge.metric, "stop": judge.stop}
            return self.planned(job, seed, options, judge.callbacks, Parts(build, judge.loss_fn))
        except UserError as error:
            raise ValueError(str(error)) from error

    def _known(self) -> Values:
        return {**super()._known(), "trunk": SEPARATE}

    def _tally(self, job: Job) -> Tally:
        loss = job.top.loss or data.find(job.data.spec).loss
        return Tally(self.targets, _each(loss, "loss"), _each(job.loop.get("metric"), "metric"))


def _check_model(spec: str) -> None:
    target = own.load(spec, says=f"model {spec!r}: {NEEDED}")
    if not callable(target) or "tasks" not in inspect.signature(target).parameters:
        raise UserError(f"model {spec!r}: {NEEDED}")


def _model(spec: str, tasks: tuple[str, ...]) -> nn.Module:
    says = f"model {spec!r}"
    target = own.load(spec, says=says)
    model = own.call(spec, partial(target, tasks=tasks), says=says, gives="the model")
    if not isinstance(model, nn.Module):
        raise UserError(f"{says} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _each(name: str | None, says: str) -> Any:
    """Returns what a loss or a metric stands for: a function, or a dict of them by task."""
    if name is None:
        return None
    if ":" not in name:
        return find_loss(name) if says == "loss" else name
    found = own.load(name, says=f"{says} {name!r}")
    if isinstance(found, Mapping):
        return {task: _each(each, says) if isinstance(each, str) else each for task, each in found.items()}
    return find_loss(name) if says == "loss" else found
