"""Trainings made of a job of which some keys vary."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ecograph import registry
from ecograph.cost.footprint import Footprint
from ecograph.loop import Callback, TrainingLoop
from ecograph.sweeps.problem import Training
from ecograph.sweeps.space import Choice, Range, Space, Values, label, parse_space, plain
from ecograph.sweeps.target import Target
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.jobs import Job, plan
from ecograph.tools.jobs.read import SHORT, make_job
from ecograph.tools.training import Parts
from ecograph.tools.training.optimizers import OPTIMIZERS

_LOOP_DEFAULTS = {f"loop.{each.name}": each.default for each in fields(TrainingLoop) if each.init}


@dataclass(frozen=True)
class JobProblem:
    """A job that varies.

    Attributes:
        table: of the job, as it is written.
        says: where it is from, for errors.
        space: key -> what may stand there.
    """

    table: Mapping[str, Any]
    says: str
    space: Space

    batch_name = "data.batch_size"
    lr_name = "optimizer.lr"
    #: What runs a setting that is ready.
    command = "train"

    @classmethod
    def of(cls, table: Mapping[str, Any], space: Mapping[str, Any], says: str) -> JobProblem:
        """Returns the problem; every value that may be drawn is read once, so that what cannot be is said at once.

        Args:
            table: of the job.
            space: as it is written; empty for one that suits the job.
            says: where it is from.

        Raises:
            UserError: for a key or value that a job cannot have.
        """
        job = make_job(table, says=says)

        def active(name: str, values: Values) -> bool:
            return _active(name, values, table)

        with user_errors(f"{says}: "):
            parsed = parse_space(space or default_space(job), active, says="[sweep.space]")
        made = cls(table, says, parsed)
        base = made.start or {}
        for name, parameter in parsed.parameters.items():
            values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
            for value in values:
                made.job({**_needed(name, base), plain(name): value})
        return made

    @property
    def start(self) -> Values | None:
        """The job as it stands, where it is in the space."""
        known = self._known()
        values: Values = {}
        for name in self.space.parameters:
            key = plain(name)
            if _is_pass(key):
                values[key] = key.partition(".")[2] in _passes(self.table)
            elif key in known:
                values[key] = known[key]
            elif key in _LOOP_DEFAULTS:
                values[key] = _LOOP_DEFAULTS[key]
        # What TOML writes as false, a job has as None.
        values = {name: False if value is None else value for name, value in values.items()}
        active = {plain(name): values[plain(name)] for name in self.space.parameters if self._counts(name, values)}
        return active if self.space.params(active) is not None else None

    def job(self, values: Values) -> Job:
        """Returns the job of a setting.

        Raises:
            UserError: where a job cannot have it.
        """
        return make_job(self.varied(values), says=self.says)

    def varied(self, values: Values) -> dict[str, Any]:
        """Returns the table of the job of a setting."""
        table = copy.deepcopy(dict(self.table))
        for name in sorted(values, key=lambda name: (name.count("."), name != "optimizer.name")):
            _put(table, name, values[name])
        return table

    def ready(self, values: Values, target: Target) -> dict[str, Any]:
        """Returns the table of a job that trains a setting until a target is reached."""
        table = self.varied(values)
        return {**table, "loop": {**table.get("loop", {}), "stop": str(target)}}

    def training(self, values: Values, *, seed: int, stop: str | None, callbacks: Sequence[Callback]) -> Training:
        """Makes a training; see ``ecograph.sweeps.Problem``."""
        try:
            return self.planned(self.job(values), seed, {"stop": stop}, callbacks)
        except UserError as error:
            raise ValueError(str(error)) from error

    def planned(
        self, job: Job, seed: int, options: Mapping[str, Any], callbacks: Sequence[Callback], parts: Parts | None = None
    ) -> Training:
        """Makes the training of a job, which leaves no files.

        Args:
            job: what is trained.
            seed: in place of the job's.
            options: of the loop, likewise.
            callbacks: beside the job's.
            parts: see ``plan``.
        """
        told = {"callbacks": [*job.loop.get("callbacks", ()), *callbacks], "progress": False}
        loop = {**job.loop, **options, **told, "checkpoint": None, "checkpoint_every": None, "log": None}
        made = plan(replace(job, top=replace(job.top, seed=seed, output=None), loop=loop), parts=parts)
        return Training(made.loop, tuple(made.ready))

    def definition(self) -> dict[str, Any]:
        """See ``ecograph.sweeps.Problem``."""
        passing = ("device", "output")  # do not change what is trained
        return {"job": {k: v for k, v in self.table.items() if k not in passing}, "space": self.space.to_json()}

    def footprint(self, joules: float) -> Footprint:
        """See ``ecograph.sweeps.Problem``."""
        return make_job(self.table, says=self.says).energy.footprint(joules)

    def _known(self) -> Values:
        """Returns every setting of the job as it stands."""
        return make_job(self.table, says=self.says).flat()

    def _counts(self, name: str, values: Values) -> bool:
        return plain(name) in values and self.space.active(name, values)


def default_space(job: Job) -> dict[str, Any]:
    """Returns what usually matters, around what a job says."""
    name, lr = job.optimizer.name, job.optimizer.options.get("lr")
    space: dict[str, Any] = {}
    if name in ("sgd", "adamw", "adam"):
        # Learning rates that suit most models, where the job has none of its own to begin from.
        usual = {"sgd": 0.05, "adamw": 2e-3}
        own = "sgd" if name == "sgd" else name
        rates = {own: lr or usual.get(own, 2e-3), **{k: v for k, v in usual.items() if k != own and own != "adam"}}
        space["optimizer.name"] = list(rates)
        space |= {f"optimizer.lr@{each}": Range(rate / 10, 10 * rate, log=True) for each, rate in rates.items()}
    elif isinstance(lr, (int, float)):
        space["optimizer.lr"] = Range(lr / 10, 10 * lr, log=True)
    if job.data.batch_size:
        size = job.data.batch_size
        space["data.batch_size"] = sorted({max(1, size // 2), size, 2 * size, 4 * size, 8 * size})
    epochs = job.loop["epochs"]
    space["loop.epochs"] = sorted({max(1, round(epochs * share)) for share in (0.25, 0.5, 1, 1.5)})
    space["loop.amp"] = sorted({False, job.loop.get("amp") or "bf16"}, key=str)
    if job.model.weights:
        space["model.weights"] = [False, job.model.weights]
    if job.model.freeze:
        space["model.freeze"] = [[], list(job.model.freeze)]
    for each in ("sparse_backward", "gradsamp"):
        if each in registry.names():
            space[f"passes.{each}"] = [False, True]
    return space


def _is_pass(key: str) -> bool:
    return key.startswith("passes.") and key.count(".") == 1


def _passes(table: Mapping[str, Any]) -> list[str]:
    return [name for name, options in table.get("passes", {}).items() if options is not False]


def _active(name: str, values: Values, table: Mapping[str, Any]) -> bool:
    """Whether a key counts: an option of a pass does where the pass is on, ``optimizer.lr@sgd`` where sgd is chosen."""
    key, _, condition = name.partition("@")
    first, *rest = key.split(".")
    if first == "passes" and len(rest) == 2 and not values.get(f"passes.{rest[0]}", rest[0] in _passes(table)):
        return False
    if not condition:
        return True
    part = table.get(first, {})
    own = part if isinstance(part, str) else part.get(SHORT.get(first, "name"))
    return label(values.get(f"{first}.{SHORT.get(first, 'name')}", own)) == condition


def _needed(name: str, base: Values) -> Values:
    """Returns what must be set for a parameter to count."""
    key, _, condition = name.partition("@")
    first, *rest = key.split(".")
    needed = dict(base)
    if first == "passes" and len(rest) == 2:
        needed[f"passes.{rest[0]}"] = True
    if condition:
        needed = {k: v for k, v in needed.items() if not k.startswith(f"{first}.")}
        needed[f"{first}.{SHORT.get(first, 'name')}"] = condition
    return needed


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    """Sets a dotted key of a job's table."""
    *path, last = name.split(".")
    inner = table
    for key in path:
        found = inner.get(key, {})
        if isinstance(found, str) and key in SHORT:
            found = {SHORT[key]: found}
        inner[key] = found if isinstance(found, dict) else {}
        inner = inner[key]
    if _is_pass(name):
        if value is True:
            now = inner.get(last)
            inner[last] = now if isinstance(now, dict) else {}
        else:
            inner[last] = value
        return
    if name == "optimizer.name" and inner.get("name") != value:
        _keep_options(inner, value)
    inner[last] = list(value) if isinstance(value, tuple) else value


def _keep_options(options: dict[str, Any], name: Any) -> None:
    """Leaves out the options of one optimizer that another does not have; a learning rate, too, is no other's."""
    kind = OPTIMIZERS.get(str(name).lower())
    takes = inspect.signature(kind).parameters if kind is not None else {}
    for key in [key for key in options if key != "name"]:
        if key == "lr" or (kind is not None and key not in takes):
            del options[key]
