"""What a search leaves in its folder: the best setting as a job that runs, a report, a plot."""

from __future__ import annotations

import json
from pathlib import Path

from ecograph.sweeps import Sweep
from ecograph.sweeps.table import amount, setting
from ecograph.tools.console import finite
from ecograph.tools.errors import UserError
from ecograph.tools.jobs import toml
from ecograph.tools.sweeps.problem import JobProblem

BEST, REPORT, PLOT = "best.toml", "report.json", "pareto.svg"


def config(problem: JobProblem, found: Sweep) -> str:
    """Returns the best setting as a job that runs as it is; empty where none reached the target."""
    best = found.best
    if best is None:
        return ""
    table = {key: value for key, value in problem.ready(best.values, found.target).items() if key != "output"}
    head = [
        f"# The setting that took the least {found.minimize} to {found.target}: {amount(best.cost, found.minimize)}",
        f"# ({found.energy_source}), the mean of {len(best.attempts)} seeds. Trial {best.number} of {len(found.rows)}:",
        f"# {setting(best.values)}",
        f"# ecograph {problem.command} best.toml trains it, until the target is reached.",
    ]
    return "\n".join(head) + "\n\n" + toml.dump(table)


def write(folder: Path, problem: JobProblem, found: Sweep) -> dict[str, str]:
    """Writes everything, and returns the files by what they are.

    Raises:
        UserError: where the folder cannot be written to.
    """
    files = {}
    texts = {REPORT: json.dumps(finite(found.to_dict()), indent=1) + "\n"}
    if found.best is not None:
        texts[BEST] = config(problem, found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            files[name.partition(".")[0]] = (folder / name).as_posix()
        if found.rows and _has_matplotlib():
            from ecograph.sweeps import plots

            plots.save(plots.pareto(found), folder / PLOT)
            files["plot"] = (folder / PLOT).as_posix()
    except OSError as error:
        raise UserError(f"sweep.output {folder}: {error.strerror}") from error
    return files


def _has_matplotlib() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None
