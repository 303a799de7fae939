"""Does `ecograph sweep` find settings that matter, and does its best one keep what it promised, from new seeds?

    python benchmarks/energy_to_target.py --json out.json                    # about ten minutes on 2 CPU cores
    python benchmarks/energy_to_target.py --json out.json --folder runs/x    # go on with the sweep in this folder

The job is that of `ecograph sweep --example`: a small ResNet on handwritten digits, to 97% of accuracy on images that
it was not trained on. Nothing is pruned, so that bad settings are seen to their end, and the spread is what it is.
"""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from rich.progress import track
from timing import machine

from ecograph.sweeps import run
from ecograph.sweeps.attempt import REACHED, attempt, cost_of
from ecograph.tools.console import finite
from ecograph.tools.sweep import example_text
from ecograph.tools.sweeps import JobProblem, read_sweep

#: Seeds of the best setting's reruns: none that the search has seen.
NEW = 100


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--reruns", type=int, default=8, help="of the best setting, each from a new seed")
    parser.add_argument("--folder", type=Path, default=None, help="of the sweep; it is gone on with")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change the job")
    parser.add_argument("--json", type=Path, default=None, help="write all figures to this file")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    job = folder / "sweep.toml"
    if not job.exists():
        job.write_text(example_text(), encoding="utf-8")
    changes = {"trials": args.trials, "prune": False, "give_up": 10.0}
    table, options = read_sweep(job, args.set, changes)
    problem = JobProblem.of(table, options.space, str(job))
    plan = options.plan(problem.job({}).top.seed)
    console = Console(width=130)
    database = next(folder.glob("**/sweep.db"), folder / "sweep.db")
    found = run(
        problem, plan, storage=database, name=options.name, resume=True, prune=False,
        say=lambda text: console.print(text, markup=False) if text.startswith("trial") else None,
    )  # fmt: skip
    console.print(found)
    best = found.best
    if best is None or best.cost is None:
        raise SystemExit("no setting reached the target")
    reruns = [
        attempt(problem, best.values, seed=NEW + number, target=plan.target, minimize=plan.minimize)
        for number in track(range(args.reruns), "rerunning the best")
    ]
    costs = [each.cost["energy"] or 0.0 for each in reruns if each.outcome == REACHED]
    needed = cost_of(reruns, "energy")  # with what failed, as a promise has it
    ratio = needed / best.cost if costs else None
    reached = f"{len(costs)} of {len(reruns)} new seeds reached the target"
    console.print(f"spread between the dearest and the best setting: {found.spread:.2f}; {reached}")
    if ratio is not None:
        console.print(f"they took {needed:.1f} J for each success, {ratio:.2f} of the {best.cost:.1f} J promised")
    if args.json is not None:
        result = {
            "machine": machine(), "date": date.today().isoformat(), "sweep": finite(found.to_dict()),
            "rerun": {
                "runs": [each.to_dict() for each in reruns], "reached": len(costs), "mean_joules": mean(costs or [0.0]),
                "promised": best.cost, "ratio": ratio,
            },
        }  # fmt: skip
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
