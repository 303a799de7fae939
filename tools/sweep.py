"""``ecograph sweep``: the setting of a job that reaches a target for the least energy."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecograph.tools.console import finite, note, print_json, print_text, stderr, stdout
from ecograph.tools.errors import UserError, user_errors

if TYPE_CHECKING:
    from ecograph.sweeps import Sweep
    from ecograph.sweeps.search import Plan
    from ecograph.tools.sweeps import JobProblem, Options

INTERRUPTED = 130


def sweep(
    config: Annotated[
        Path | None, typer.Argument(metavar="JOB.toml", help="The job. See --example.", show_default=False)
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TASK=]TEXT",
            help='What is to be reached, such as "val_accuracy >= 0.97". Repeated, one for each of several tasks: '
            '"digit=val_accuracy >= 0.97".',
        ),
    ] = None,
    minimize: Annotated[str | None, typer.Option(help="energy (by default), time, flops, co2 or money.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Settings to try; 30 by default.")] = None,
    hours: Annotated[float | None, typer.Option(help="End after so many hours.")] = None,
    joules: Annotated[float | None, typer.Option(help="End when the search has taken so much energy.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the job, or [sweep]. May be repeated."),
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="FOLDER", help="Where the search is kept.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Any storage of optuna; left out: sweep.db (SQLite) in the folder."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine that search together.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in the folder or storage, or join it.")
    ] = False,
    probes: Annotated[bool | None, typer.Option("--probes/--no-probes", help="Look at batch sizes first.")] = None,
    prune: Annotated[bool | None, typer.Option("--prune/--no-prune", help="Stop what falls behind.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with tables and plots.")] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a commented job to start from.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Search for the setting of a job that reaches a target for the least energy, time or money.

    What varies stands in [sweep.space] of the job's file; without it, what usually matters: learning rate, batch size,
    epochs, optimizer, precision, passes. Optuna searches; the loop's meter measures. It can be stopped at any time and
    gone on with (--resume), also by several workers, on several machines, that share a storage.

    Left in the folder: sweep.db, best.toml (ready for ecograph train), report.json, pareto.svg.
    """
    if example:
        print_text(example_text())
        return
    if config is None:
        raise UserError("give the file of a job: ecograph sweep JOB.toml; --example prints one")
    _check_optuna()
    from ecograph.sweeps.tally import Targets
    from ecograph.tools.jobs.read import make_job
    from ecograph.tools.sweeps import JobProblem, TasksProblem, read_sweep, targets

    given = {
        "target": targets(target or []),
        "minimize": minimize,
        "trials": trials,
        "hours": hours,
        "joules": joules,
        "output": output,
        "storage": storage,
        "probes": probes,
        "prune": prune,
    }
    with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the report
        table, options = read_sweep(config, changes or [], given)
        plan = options.plan(make_job(table, says=str(config)).top.seed)
        problem: JobProblem
        if isinstance(plan.target, Targets):
            problem = TasksProblem.with_targets(plan.target, table, options.space, str(config))
        else:
            problem = JobProblem.of(table, options.space, str(config))
        if plan.minimize == "money" and problem.footprint(0.0).cost is None:
            raise UserError("--minimize money needs the price of a kWh: set energy.price, --set energy.price=0.3")
        found = _search(problem, plan, options, resume=resume or worker, workers=workers)
    if worker:
        return
    _report(found, problem, options, html=html, json=json)


def example_text() -> str:
    """Returns the commented job."""
    from importlib.resources import files

    return (files("ecograph.tools.sweeps") / "example.toml").read_text(encoding="utf-8")


def _check_optuna() -> None:
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UserError("a sweep needs optuna: pip install 'ecograph[sweep]'")


def _search(problem: JobProblem, plan: Plan, options: Options, *, resume: bool, workers: int) -> Sweep:
    import warnings

    from ecograph.errors import NeverReachedWarning
    from ecograph.sweeps import run
    from ecograph.sweeps.shown import shown

    if options.storage is None:
        try:
            options.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"sweep.output {options.folder}: {error.strerror}") from error
    others: list[subprocess.Popen[bytes]] = []

    def told(*_: Any) -> None:
        """Starts the others when the first trial is done: the study is there then, and its probes."""
        if workers > 1 and not others:
            others.extend(_start_worker() for _ in range(workers - 1))

    def once(resume: bool) -> Sweep:
        return run(
            problem,
            plan,
            storage=options.database,
            name=options.name,
            resume=resume,
            probes=options.probes,
            prune=options.prune,
            say=say,
            tell=told,
        )

    try:
        with user_errors(), warnings.catch_warnings(), shown(stderr(), elsewhere=True) as say:
            warnings.simplefilter("ignore", NeverReachedWarning)  # the report says it
            found = once(resume)
            if others:
                for other in others:
                    other.wait()
                found = once(True)  # the best are repeated by whoever is the last
    except KeyboardInterrupt as error:
        stderr().print("to go on: the same command with --resume", markup=False)
        raise typer.Exit(INTERRUPTED) from error
    finally:
        for other in others:
            if other.poll() is None:
                other.terminate()
    return found


def _start_worker() -> subprocess.Popen[bytes]:
    """Starts another process with the same command line."""
    typed = [each for each in sys.argv[1:] if each not in ("--worker", "--resume")]
    return subprocess.Popen([sys.executable, "-m", "ecograph.tools", *typed, "--worker"], stdout=subprocess.DEVNULL)


def _report(found: Sweep, problem: JobProblem, options: Options, *, html: Path | None, json: bool) -> None:
    from ecograph.tools.sweeps import files

    written = files.write(options.folder, problem, found)
    if html is not None:
        from ecograph.sweeps.page import page

        with user_errors("--html: "):
            text = page(found, files.config(problem, found))
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html {html}: {error.strerror}: give a file that can be written") from error
        written["page"] = html.as_posix()
    if json:
        print_json({**finite(found.to_dict()), "files": written})
    else:
        stdout().print(found)
        for name, path in written.items():
            stdout().print(f"{name}: {path}", markup=False)
    if found.best is None:
        raise typer.Exit(1)
    note(f"to train it: ecograph {problem.command} {written['best']}")
