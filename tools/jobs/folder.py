"""The folder of a run: what is in it, and whether a job may go on there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ecograph.tools.errors import UserError
from ecograph.tools.jobs import toml
from ecograph.tools.jobs.job import Job
from ecograph.tools.jobs.read import make_job

JOB = "job.toml"
SOURCE = "train_loop.py"
WEIGHTS = "weights.pt"
REPORT = "report.json"

#: What may differ from how a run was begun, because it does not change what is trained.
_PASSING = (
    "device",
    "output",
    "data.workers",
    "loop.progress",
    "loop.annotate",
    "loop.checkpoint",
    "loop.checkpoint_every",
    "loop.log",
)


def check(folder: Path, job: Job, *, resume: bool) -> None:
    """Raises UserError where a run is in the folder already: another one, or this one and it is not to be resumed."""
    begun = folder / JOB
    if not begun.exists():
        return
    if not resume:
        raise UserError(
            f"{folder} holds a run already: --resume goes on with it; --set output=FOLDER begins another one"
        )
    then, now = make_job(toml.read(begun), says=str(begun)).flat(), job.flat()
    for name in dict.fromkeys([*then, *now]):
        if name not in _PASSING and then.get(name) != now.get(name):
            raise UserError(
                f"{folder} was begun with {_shown(name, then)}, and now it is {_shown(name, now)}: resume it with what "
                "it was begun with, or begin another one by --set output=FOLDER"
            )


def begin(folder: Path, job: Job, source: str) -> None:
    """Writes what is going to be run: the job, and its loop.

    Raises:
        UserError: where the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JOB).write_text(toml.dump(job.table), encoding="utf-8")
        (folder / SOURCE).write_text(source, encoding="utf-8")
    except OSError as error:
        raise UserError(f"output {folder}: {error.strerror}") from error


def _shown(name: str, values: dict[str, Any]) -> str:
    return f"{name} = {values[name]!r}" if name in values else f"without {name}"
