"""The table ``[sweep]`` of a job's file, and what the command line changes in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from ecograph.sweeps.search import Budget, Plan
from ecograph.sweeps.tally import Targets
from ecograph.sweeps.target import Target, check_quantity
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.jobs import toml
from ecograph.tools.jobs.fits import fits, in_words
from ecograph.tools.jobs.read import change as change_table
from ecograph.tools.jobs.read import make_job


@dataclass(frozen=True)
class Options:
    """What a search is to do.

    Attributes:
        target: such as ``"val_accuracy >= 0.97"``; or several, by task.
        minimize: energy, time, flops, co2 or money.
        trials: settings to try.
        hours: of each worker; None for any.
        joules: of all trials together; None for any.
        output: folder of the search.
        storage: of optuna; None for ``sweep.db`` in the folder.
        name: of the study in the storage.
        probes: look at batch sizes and learning rates first.
        prune: stop trainings that fall behind.
        give_up: stop a training that has cost so many times the best.
        finalists: when the search has ended, the best setting is repeated; so many may have to be, until one keeps up.
        repeats: how often, each from another seed; and what is left, as often again, for what it promises.
        space: key -> values; see ``parse_space``. Empty: chosen to suit the job.
    """

    target: str | Mapping[str, str] = ""
    minimize: str = "energy"
    trials: int = 30
    hours: float | None = None
    joules: float | None = None
    output: str = ""
    storage: str | None = None
    name: str = "sweep"
    probes: bool = True
    prune: bool = True
    give_up: float = 6.0
    finalists: int = 4
    repeats: int = 4
    space: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.output)

    @property
    def database(self) -> str:
        """The storage of the study."""
        return self.storage or (self.folder / "sweep.db").as_posix()

    @property
    def wanted(self) -> Target:
        """What is to be reached.

        Raises:
            ValueError: for what is no target.
        """
        return Target.parse(self.target) if isinstance(self.target, str) else Targets.of(self.target)

    def plan(self, seed: int) -> Plan:
        """Returns how the search goes about it.

        Raises:
            UserError: for a target or limits that make no sense.
        """
        if not self.target:
            raise UserError('a sweep needs a target: give --target "val_accuracy >= 0.97", or target in [sweep]')
        for name, least in (("give_up", 1.0), ("finalists", 0), ("repeats", 0)):
            if getattr(self, name) < least:
                raise UserError(f"sweep.{name} = {getattr(self, name)!r} must be {least:g} or more")
        limits: dict[str, Any] = {"trials": self.trials}
        limits |= {} if self.hours is None else {"seconds": 3600 * self.hours}
        limits |= {} if self.joules is None else {"joules": self.joules}
        with user_errors():
            return Plan(
                self.wanted,
                check_quantity(self.minimize),
                Budget.parse(limits),
                seed,
                self.give_up,
                self.finalists,
                self.repeats,
            )


def read_sweep(path: Path, changes: Sequence[str], given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Returns the job of a file, as the table that it is made from, and what the search is to do.

    Args:
        path: a job for ``ecograph train``, which may have a table ``[sweep]``.
        changes: of the job, by the command line: ``"model.spec=demo:tiny"``.
        given: options of the search, by the command line.

    Raises:
        UserError: for whatever is not understood.
    """
    table = toml.read(path)
    changed = {change_table(table, each) for each in changes}
    written = table.pop("sweep", {})
    if not isinstance(written, Mapping):
        raise UserError(f"{path}: sweep = {written!r} must be a table: [sweep]")
    options = _check(written, str(path))
    options |= {name: value for name, value in given.items() if value is not None}
    job = make_job(table, says=str(path), changed=changed)
    options.setdefault("output", job.top.output or f"runs/{path.stem}-sweep")
    return table, Options(**options)


def _check(written: Mapping[str, Any], says: str) -> dict[str, Any]:
    hints = get_type_hints(Options)
    found = {}
    for key, value in written.items():
        if key not in hints:
            close = get_close_matches(key, hints, 1)
            hint = f"did you mean {f'sweep.{close[0]}'!r}?" if close else f"there are {', '.join(hints)}"
            raise UserError(f"{says}: there is no key {f'sweep.{key}'!r}; {hint}")
        if key == "space":
            if not isinstance(value, Mapping):
                raise UserError(f"{says}: sweep.space = {value!r} must be a table: [sweep.space]")
            value = flat(value)
        elif key == "target" and isinstance(value, Mapping):
            for task, text in value.items():
                if not isinstance(text, str):
                    raise UserError(f"{says}: sweep.target.{task} = {text!r} must be {in_words(str)}")
        elif value is False and key in _MAY_BE_FALSE:
            value = None
        elif not fits(value, hints[key]):
            raise UserError(f"{says}: sweep.{key} = {value!r} must be {in_words(hints[key])}")
        found[key] = value
    return found


_MAY_BE_FALSE = {each.name for each in dataclasses.fields(Options) if each.default is None}


def targets(texts: Sequence[str]) -> str | dict[str, str] | None:
    """Returns what the command line says of the target: one, or several by task; None where it says nothing.

    Args:
        texts: ``["val_accuracy >= 0.97"]``, or ``["digit=val_accuracy >= 0.97", "ink=val_loss <= 0.1"]``.

    Raises:
        UserError: for several that are not each of a task of its own.
    """
    by_task: dict[str, str] = {}
    for text in texts:
        task, equals, target = text.partition("=")
        if not equals or not task.strip().isidentifier():
            if len(texts) == 1:
                return text
            raise UserError(f"--target {text!r}: of several, each is TASK=TARGET, such as 'digit=val_accuracy >= 0.97'")
        if task.strip() in by_task:
            raise UserError(f"--target: the task {task.strip()!r} has two")
        by_task[task.strip()] = target.strip()
    return by_task or None


def flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Returns nested tables as one with dotted names; a range, which is a table with low and high, is a value."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            found |= flat(value, name)
        else:
            found[name] = value
    return found
