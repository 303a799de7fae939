"""Carrying a job out."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ecograph.tools.jobs import folder as run_folder
from ecograph.tools.jobs.plan import Planned
from ecograph.tools.jobs.report import Outcome
from ecograph.tools.ranks import is_main
from ecograph.tools.training.errors import training_errors
from ecograph.tools.training.weights import save_weights

KEEP = "set output to a folder, and what was trained can be gone on with"


def run(planned: Planned, *, resume: bool, again: str, started: float) -> Outcome:
    """Trains, and writes the results into the folder of the job, where it has one.

    Args:
        planned: what to train.
        resume: go on from the last checkpoint, if there is one.
        again: the command line that goes on with it.
        started: when it all began, by ``time.perf_counter``.

    Raises:
        UserError: as ``training_errors``.
    """
    job, loop, ready = planned.job, planned.loop, planned.ready
    folder = job.folder
    if folder is not None and is_main():
        run_folder.begin(folder, job, loop.source)
    checkpointed = loop.checkpoint is not None
    with training_errors(again, keep=KEEP):
        history = loop.run(*ready, resume=resume)
    files = {}
    if folder is not None:
        save_weights(ready.model, folder / run_folder.WEIGHTS)
        files = {
            "weights": (folder / run_folder.WEIGHTS).as_posix(),
            "loop": (folder / run_folder.SOURCE).as_posix(),
            "job": (folder / run_folder.JOB).as_posix(),
        }
    if checkpointed:
        files["checkpoints"] = str(loop.checkpoint)
    logs = [] if loop.log is None else [loop.log] if isinstance(loop.log, (str, Path)) else loop.log
    files |= {f"history{f' {at + 1}' if at else ''}": str(path) for at, path in enumerate(logs)}
    if folder is not None:
        files["report"] = (folder / run_folder.REPORT).as_posix()
    outcome = Outcome(planned, history, planned.explained(), time.perf_counter() - started, files)
    if folder is not None and is_main():
        text = json.dumps(outcome.to_dict(), indent=2)
        (folder / run_folder.REPORT).write_text(text + "\n", encoding="utf-8")
    return outcome
