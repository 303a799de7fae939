"""The file of finished trainings: written after each one, so that an interrupted benchmark can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from timing import machine

from tasks.training import Job


class ResultsError(Exception):
    """The file cannot be used; the message says why and what to do."""


class Results:
    """Finished trainings, in memory and in a file.

    Args:
        path: the file; None keeps them in memory only.
        settings: what all trainings in it have in common: ``{"tasks": {name: ...}, "arms": {name: ...}}``.
        resume: whether to go on with a file that is there.

    Raises:
        ResultsError: where the file is there and is not to be gone on with, or was made in other circumstances.
    """

    def __init__(self, path: Path | None, settings: dict[str, dict[str, Any]], *, resume: bool = False) -> None:
        self.runs: list[dict[str, Any]] = []
        self.costs: dict[str, dict[str, dict[str, Any]]] = {}  # task -> way -> figures, where they are measured apart
        self._path = path
        self._head: dict[str, Any] = {"machine": machine(), **settings}
        if path is None or not path.exists():
            return
        if not resume:
            raise ResultsError(f"{path} is already there: give --resume to go on with it, or another name")
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            self.runs = before["runs"]
            self.costs = before.get("costs", {})
            self._check(before)
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path} is not a file of this benchmark ({error!r}): give another name") from error

    def _check(self, before: dict[str, Any]) -> None:
        """Keeps what the file says of tasks and arms that are not part of this call; what both know must agree."""
        if before["machine"] != self._head["machine"]:
            raise ResultsError(
                f"{self._path} was measured elsewhere: {before['machine']}, here is {self._head['machine']}. "
                "CPU seconds could not be compared: give another name"
            )
        for kind in ("tasks", "arms"):
            for name, now in self._head[kind].items():
                if before[kind].get(name, now) != now:
                    raise ResultsError(
                        f"{self._path} has other settings for {name}: {before[kind][name]}, now {now}. "
                        "Use those, or give another name"
                    )
            self._head[kind] = before[kind] | self._head[kind]

    def find(self, job: Job) -> dict[str, Any] | None:
        """Returns the finished run of this job, or None."""
        key = ("task", "arm", "seed", "steps")
        for run in self.runs:
            if all(run[name] == getattr(job, name) for name in key):
                return run
        return None

    def add(self, run: dict[str, Any]) -> None:
        """Remembers a finished run, and writes the file."""
        self.runs.append(run)
        self.write()

    def write(self, **more: Any) -> None:
        """Writes all runs and ``more``. Whoever stops the program in the middle of this finds the file as it was."""
        if self._path is None:
            return
        more |= {"costs": self.costs} if self.costs else {}
        new = self._path.with_name(self._path.name + ".new")
        new.write_text(json.dumps({**self._head, **more, "runs": self.runs}, indent=1) + "\n", encoding="utf-8")
        os.replace(new, self._path)
