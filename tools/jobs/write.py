"""From a job to the table that it is read from: the way back from ``read.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ecograph.tools.jobs.job import Job, Named


def to_table(job: Job) -> dict[str, Any]:
    """Returns a job as a table of tables, as TOML holds it.

    What has its default is left out, but for the options of passes: those are what a reader will want to change.
    Callbacks that are objects in place of specs have no place in TOML.
    """
    return {
        **_set(job.top),
        "model": _set(job.model),
        "data": _set(job.data),
        "optimizer": _named(job.optimizer),
        "schedule": _named(job.schedule),
        "passes": {each.name: _options(each) for each in job.passes},
        "loop": _plain(job.loop),
        **({"energy": energy} if (energy := _set(job.energy)) else {}),
    }


def _set(part: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that do not have their default."""
    values = {each.name: (getattr(part, each.name), each.default) for each in dataclasses.fields(part)}
    return _plain({name: value for name, (value, default) in values.items() if value != default})


def _options(each: Any) -> dict[str, Any]:
    """Returns the options of a pass; None, for which TOML has no word, is left out."""
    options = {name: value for name, value in each.to_dict().items() if name != "name"}
    return {name: value for name, value in options.items() if value is not None}


def _named(part: Named) -> dict[str, Any]:
    return {"name": part.name, **_plain(part.options)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as TOML has them: false for none, and no tuples."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return {name: False if value is None else value for name, value in plain.items()}
