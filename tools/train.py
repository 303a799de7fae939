"""``ecograph train``: a whole training, described in a file."""

from __future__ import annotations

import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecograph.tools.console import note, print_json, print_python, print_text, stdout
from ecograph.tools.errors import UserError, one_line, user_errors
from ecograph.tools.ranks import command, is_main

if TYPE_CHECKING:
    from ecograph.cost.estimate import PlannedRun
    from ecograph.tools.jobs import Planned


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG.toml", help="The job. See --example.", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the job, such as loop.epochs=3. May be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the loop, what the passes do, and an estimate; train and write nothing."),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="DEVICE",
            help="With --dry-run: estimate for this device, such as h100.",
        ),
    ] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a commented job to start from.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run a whole training that a TOML file describes: model, data, passes, optimizer, loop.

    ecograph train --example > job.toml writes a job that runs as it is, with every key explained.

    Paths are relative to the folder that you are in.

    In several processes: torchrun --nproc-per-node=2 -m ecograph.tools train CONFIG.toml
    """
    if example:
        print_text(example_text())
        return
    if config is None:
        raise UserError(
            "give the file of a job: ecograph train CONFIG.toml; --example prints one (see ecograph train --help)"
        )
    if on is not None:
        if not dry_run:
            raise UserError("--on is for the estimate of --dry-run: add it, or leave --on out")
        from ecograph.cost.devices import find_device

        with user_errors("--on: "):
            find_device(on)
    from ecograph.tools.jobs import folder, plan, read_job
    from ecograph.tools.jobs.run import run

    started = time.perf_counter()
    with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the report
        job = read_job(config, changes or [])
        if dry_run:
            planned = plan(job, on=on or "auto")
        else:
            if job.folder is not None and is_main():
                folder.check(job.folder, job, resume=resume)
            typed = ["train", str(config), *(each for change in changes or [] for each in ("--set", change))]
            typed += ["--json"] * json
            planned = plan(job, typed + ["--resume"] * resume)
            outcome = run(planned, resume=resume, again=command(*typed, "--resume"), started=started)
    if dry_run:
        _show(planned, on or "auto", json=json)
    elif json:
        print_json(outcome.to_dict())
    else:
        stdout().print(outcome)


def example_text() -> str:
    """Returns the commented job."""
    from importlib.resources import files

    return (files("ecograph.tools.jobs") / "example.toml").read_text(encoding="utf-8")


def _show(planned: Planned, device: str, *, json: bool) -> None:
    """Prints what would be run, and what it would take."""
    planned.announce()
    explained = planned.explained()
    with redirect_stdout(sys.stderr):
        estimated = _estimated(planned, device)
    if json:
        report = None if explained is None else explained.to_dict()
        print_json(
            {
                "job": planned.job.table,
                "source": planned.loop.source,
                "explain": report,
                "step": None if estimated is None else estimated.estimate.to_dict(),
                "run": None if estimated is None else estimated.to_dict(),
            }
        )
        return
    print_python(planned.loop.source)
    for each in (explained, estimated):
        if each is not None:
            stdout().print(each)


def _estimated(planned: Planned, device: str) -> PlannedRun | None:
    """Returns what the training will cost; None, with a note, where that cannot be told. It is no reason to stop."""
    from ecograph.tools.jobs.estimated import estimate_job

    try:
        return estimate_job(planned, device)
    except Exception as error:
        note(f"no estimate of time and energy: {one_line(error)}")
        return None
