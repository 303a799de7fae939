"""From TOML and the command line to a job: strictly, so that a slip of the pen is not a silent default."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from ecograph import registry
from ecograph.loop import TrainingLoop
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.jobs import toml
from ecograph.tools.jobs.fits import fits, in_words, may_be_none
from ecograph.tools.jobs.job import DataSet, Energy, Job, Model, Named, Top

T = TypeVar("T")

#: Options of the loop that a file can hold, with what may stand there.
LOOP: dict[str, Any] = {
    each.name: get_type_hints(TrainingLoop)[each.name]
    for each in dataclasses.fields(TrainingLoop)
    if each.init and each.name != "passes"
} | {"metric": str | None, "callbacks": Sequence[str]}


#: Tables of which a text alone says this key: ``schedule = "none"``.
SHORT = {"model": "spec", "data": "spec", "optimizer": "name", "schedule": "name"}


def read_job(path: Path, changes: Sequence[str] = ()) -> Job:
    """Returns the job that a file describes.

    Args:
        path: a TOML file.
        changes: of the command line: ``"loop.epochs=3"``. The value is TOML, or else text.

    Raises:
        UserError: for whatever is not understood, naming it and the nearest that is.
    """
    table = toml.read(path)
    changed = set()
    for each in changes:
        changed.add(change(table, each))
    return make_job(table, says=str(path), changed=changed)


def make_job(table: Mapping[str, Any], *, says: str, changed: set[str] | frozenset[str] = frozenset()) -> Job:
    """Returns the job that a table of tables describes.

    Args:
        table: as TOML gives it.
        says: where it is from, for errors.
        changed: the keys that come from the command line.

    Raises:
        UserError: as :func:`read_job`.
    """
    return _Reader(says, changed).job(table)


def change(table: dict[str, Any], text: str) -> str:
    """Makes a change of the command line in a table, and returns the key that it changed.

    Args:
        table: as TOML gives it.
        text: ``"loop.epochs=3"``.

    Raises:
        UserError: for a text that is no change.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    *path, last = key.split(".")
    if not equals or not last or not all(path):
        raise UserError(f"--set {text!r}: give KEY=VALUE, such as loop.epochs=3")
    for name in path:
        found = table.setdefault(name, {})
        if isinstance(found, str) and name in SHORT:
            found = table[name] = {SHORT[name]: found}
        elif not isinstance(found, dict):
            found = table[name] = {}  # such as passes.gradsamp, which was false
        table = found
    table[last] = toml.value(value.strip())
    return key


class _Reader:
    """Reads tables, and knows where each key is from."""

    def __init__(self, says: str, changed: set[str] | frozenset[str]) -> None:
        self._says = says
        self._changed = changed

    def job(self, table: Mapping[str, Any]) -> Job:
        tables = ("model", "data", "optimizer", "schedule", "passes", "loop", "energy")
        known = {**_hints(Top), **dict.fromkeys(tables)}
        for key in table:
            self._check_key(key, key, known)
        top = self._dataclass(Top, {key: each for key, each in table.items() if key in _hints(Top)}, "")
        loop = self._values(LOOP, self._table(table, "loop"), "loop")
        if "epochs" not in loop:
            raise self._missing("loop.epochs", 30)
        named = {
            name: self._named(self._table(table, name), name) for name in ("optimizer", "schedule") if name in table
        }
        return Job(
            top=top,
            model=self._dataclass(Model, self._table(table, "model"), "model"),
            data=self._dataclass(DataSet, self._table(table, "data"), "data"),
            passes=self._passes(self._table(table, "passes")),
            loop=loop,
            energy=self._energy(self._table(table, "energy")),
            table=copy.deepcopy(dict(table)),
            **named,
        )

    def _energy(self, table: Mapping[str, Any]) -> Energy:
        energy = self._dataclass(Energy, table, "energy")
        with user_errors(f"{self._from('energy')}energy."):
            energy.footprint(0.0)
        return energy

    def _table(self, table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = table.get(name, {})
        if isinstance(found, str) and name in SHORT:
            return {SHORT[name]: found}
        if not isinstance(found, Mapping):
            raise self._error(name, f"{name} = {found!r} must be a table: [{name}]")
        return found

    def _dataclass(self, kind: type[T], table: Mapping[str, Any], at: str) -> T:
        values = self._values(_hints(kind), table, at)
        for each in dataclasses.fields(kind):  # type: ignore[arg-type]
            if each.name not in values and each.default is dataclasses.MISSING:
                raise self._missing(_dotted(at, each.name), {"model": "demo:small", "data": "digits"}[at])
        return kind(**values)

    def _values(self, hints: Mapping[str, Any], table: Mapping[str, Any], at: str) -> dict[str, Any]:
        values = {}
        for key, value in table.items():
            name = _dotted(at, key)
            self._check_key(key, name, hints, at)
            hint = hints[key]
            if value is False and may_be_none(hint) and not fits(False, hint):
                value = None
            elif not fits(value, hint):
                raise self._error(name, f"{name} = {value!r} must be {in_words(hint)}")
            values[key] = value
        return values

    def _named(self, table: Mapping[str, Any], at: str) -> Named:
        options = dict(table)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise self._missing(f"{at}.name", "sgd" if at == "optimizer" else "cosine")
        for key, value in options.items():
            if isinstance(value, Mapping):
                raise self._error(f"{at}.{key}", f"there is no table {at}.{key}")
        return Named(name, options)

    def _passes(self, table: Mapping[str, Any]) -> tuple[Any, ...]:
        made = []
        for name, options in table.items():
            at = f"passes.{name}"
            self._check_key(name, at, dict.fromkeys(registry.names()), "passes")
            if options is False:  # left out, by the command line or for the time being
                continue
            if not isinstance(options, Mapping):
                raise self._error(at, f"{at} = {options!r} must be a table, [{at}], with its options; or false")
            known = {each.name: None for each in dataclasses.fields(registry.find(name)) if each.name != "filter_fn"}
            for key in options:
                self._check_key(key, f"{at}.{key}", known, at)
            with user_errors(f"{self._from(at)}{at}: "):
                made.append(registry.from_dict({"name": name, **options}))
        return tuple(made)

    def _check_key(self, key: str, name: str, known: Mapping[str, Any], at: str = "") -> None:
        if key in known:
            return
        close = get_close_matches(key, list(known), 1)
        elsewhere = [each for each in _all_keys() if each.endswith(f".{key}")]
        if name == "sweep":
            raise self._error(name, "[sweep] is for ecograph sweep: run this file with it, or leave the table out")
        near = _dotted(at, close[0]) if close else elsewhere[0] if elsewhere else None
        hint = f"did you mean {near!r}?" if near else f"there are {', '.join(known)}"
        raise self._error(name, f"there is no key {name!r}; {hint}")

    def _missing(self, name: str, example: Any) -> UserError:
        shown = f'"{example}"' if isinstance(example, str) else example
        table, _, key = name.rpartition(".")
        return UserError(f"{self._says}: {key} is missing in [{table}]: give one, such as {key} = {shown}")

    def _error(self, name: str, text: str) -> UserError:
        return UserError(self._from(name) + text)

    def _from(self, name: str) -> str:
        """Returns what an error about a key begins with: where the key was written."""
        changed = any(f"{each}.".startswith(f"{name}.") or f"{name}.".startswith(f"{each}.") for each in self._changed)
        return "--set: " if changed else f"{self._says}: "


def _hints(kind: Any) -> dict[str, Any]:
    return {each.name: get_type_hints(kind)[each.name] for each in dataclasses.fields(kind)}


def _all_keys() -> list[str]:
    tables = {"model": _hints(Model), "data": _hints(DataSet), "loop": LOOP, "optimizer": {"name": str, "lr": float}}
    tables["energy"] = _hints(Energy)
    return [f"{table}.{key}" for table, keys in tables.items() for key in keys]


def _dotted(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
