"""Draws results of frontier.py and energy_to_target.py, and says in plain words which method pays where.

    python benchmarks/frontier_page.py benchmarks/results/frontier_*.json benchmarks/results/energy_to_target_*.json

Writes benchmarks/plots/*.svg and benchmarks/README.md; nothing in them is written by hand.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure
from tasks.merit import over_tasks

HERE = Path(__file__).parent
DENSE, FREE = "dense", "dense-free"
BLUE, GREEN, ORANGE = "#1f5fbf", "#2e8b57", "#d9822b"
rcParams["svg.hashsalt"] = "ecograph"

HEAD = """\
# Benchmarks: what pays, and what does not

This page is written by `frontier_page.py` from the files in [results](results); every figure in it was measured, and
the script that measured it stands beside. How to run them is said at the top of each script.

**The dense frontier.** A method that skips work must beat training that simply does less of it. So the yardstick is
dense training with less work, its learning-rate schedule stretched over what is left: quality against cost, a curve. A
method's figure of merit is what it costs, next to what dense training costs *that comes as far*: below 1 it pays. The
interval is 95%, by the jackknife over seeds, paired, with Student's t: where it holds 1, these seeds cannot tell.

Energy is {source}; where it is modelled, it compares as CPU seconds do. What a training takes is measured apart from
the trainings whose quality counts, in short ones that take turns (the median over rounds of the ratio to dense
training), so that nothing else that the machine did is in it; intervals are of the quality alone.
"""


def draw(rows: Sequence[dict[str, Any]], metric: str) -> Figure:
    """Draws a task: the dense frontiers and every method, energy against quality, both relative to nothing."""
    figure = Figure(figsize=(7.5, 4.6))
    axes = figure.subplots()
    for base, colour, name in (
        (DENSE, BLUE, "dense frontier"),
        (FREE, GREEN, "dense frontier, channels_last and bf16"),
    ):
        points = sorted(
            (row["joules"], row["value"], row["values"]) for row in rows if row["way"] == base and row["joules"]
        )
        if points:
            errors = [stdev(values) if len(values) > 1 else 0.0 for *_, values in points]
            x, y = [cost for cost, *_ in points], [value for _, value, _ in points]
            axes.errorbar(x, y, errors, color=colour, marker="o", markersize=4, capsize=2, label=name)
    for row in rows:
        if row["way"] in (DENSE, FREE) or not row["joules"]:
            continue
        error = stdev(row["values"]) if len(row["values"]) > 1 else 0.0
        axes.errorbar([row["joules"]], [row["value"]], [error], color=ORANGE, marker="D", markersize=5, capsize=2)
        axes.annotate(row["way"], (row["joules"], row["value"]), (5, 4), textcoords="offset points", fontsize=7)
    axes.set_xlabel("energy of a training, J")
    axes.set_ylabel(metric)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def sentence(row: dict[str, Any]) -> str:
    """Returns what is to be said of a method, in a line of a table."""
    merits = row["merit"].get(DENSE, {})
    verdict = merits.get("joules", {}).get("verdict", "")
    energy = f"{row['joules_of_dense']:.0%}" if row.get("joules_of_dense") else "unknown"
    spread = f" ± {stdev(row['values']):.2f}" if len(row["values"]) > 1 else ""
    cells = [
        row["title"], f"{row['value']:.2f}{spread}", f"{row['flops']:.0%}", energy, _merit(merits.get("joules")),
        _merit(merits.get("flops")), _merit(row["merit"].get(FREE, {}).get("joules")), verdict,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _merit(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    sign = {"above": "at most ", "below": "at least "}.get(found["bound"], "")
    high = "?" if found["high"] is None else f"{found['high']:.2f}"
    return f"{sign}{found['ratio']:.2f} ({found['low']:.2f} to {high})"


def over_all(parts: Mapping[str, Sequence[dict[str, Any]]], seeds: Mapping[str, int]) -> list[dict[str, Any]]:
    """Returns a row for each way that every task has, the best first: its merits, and their geometric mean.

    Args:
        parts: task -> rows.
        seeds: task -> how many.
    """
    merits: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    titles = {}
    for task, rows in parts.items():
        for row in rows:
            if "joules" in row["merit"].get(DENSE, {}):
                titles[row["way"]] = row["title"]
                merits.setdefault((row["way"], row["share"]), {})[task] = row["merit"][DENSE]["joules"]
    found = []
    for (way, share), each in merits.items():
        if set(each) == set(parts):
            whole = over_tasks(list(each.values()), [seeds[task] for task in each])
            found.append(
                {"title": _title(titles[way], share), "share": share, "merits": each, "whole": whole.to_dict()}
            )
    return sorted(found, key=lambda row: row["whole"]["ratio"])


def _title(title: str, share: float) -> str:
    return title if share == 1.0 else f"{title}, {share:.0%} of the steps"


def overview(parts: Mapping[str, Sequence[dict[str, Any]]], seeds: Mapping[str, int]) -> list[str]:
    """Returns what stands on the page of all tasks together."""
    rows = over_all(parts, seeds)
    if len(parts) < 2 or not rows:
        return []
    best = rows[0]
    tasks = ", ".join(parts)
    words: dict[str, list[str]] = {}
    for row in rows:
        if row["share"] == 1.0:
            pays = [task for task, each in row["merits"].items() if each["verdict"] == "pays"]
            not_there = [task for task, each in row["merits"].items() if each["verdict"].startswith("does not pay")]
            said = [f"pays on {_listed(pays)}"] if pays else []
            said += [f"does not pay on {_listed(not_there)}"] if not_there else []
            words[row["title"]] = said or ["these seeds cannot tell on any task"]
    return [
        f"\n## All tasks\n\nEnergy at equal quality, next to the dense frontier, on {tasks}.\n",
        f"The least over all tasks: **{best['title']}**, {_merit(best['whole'])} of what dense training takes that "
        "comes as far (geometric mean, 95% interval; it was chosen among all, so it is a little flattered). How much "
        "of that is the method's, and how much channels_last's and bf16's, tells the column *next to free* below.\n",
        *(f"- {title}: {'; '.join(said)}." for title, said in words.items()),
        f"\n| way | all tasks | {' | '.join(parts)} |",
        "|" + "---|" * (len(parts) + 2),
        *(
            f"| {row['title']} | {_merit(row['whole'])} | {' | '.join(_merit(row['merits'][task]) for task in parts)} |"
            for row in rows
        ),
    ]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def tuned(data: dict[str, Any]) -> str:
    """Returns whose learning rates these are."""
    factors = data.get("factors", [1.0])
    if len(factors) < 2:
        return "Learning rates are the task's own, not tuned for each way."
    listed = ", ".join(f"{each:g}" for each in factors)
    return f"Each point has the learning rate that did best of {listed} times the task's, on a seed of its own."


def in_words(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns which methods pay next to the dense frontier, which do not, and what cannot be told."""
    by_verdict: dict[str, list[str]] = {}
    for row in rows:
        merits = row["merit"].get(DENSE, {})
        if row["share"] == 1.0 and row["way"] != DENSE and "joules" in merits:
            by_verdict.setdefault(merits["joules"]["verdict"].partition(":")[0], []).append(row["title"])
    return [f"- **{verdict}**, in energy: {'; '.join(titles)}." for verdict, titles in sorted(by_verdict.items())]


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the way with the least energy at equal quality, of those that a figure can be put to."""
    found = [
        row for row in rows if row["way"] != DENSE and row["merit"].get(DENSE, {}).get("joules", {}).get("bound") == ""
    ]
    return min(found, key=lambda row: row["merit"][DENSE]["joules"]["ratio"], default=None)


def frontier_part(path: Path, data: dict[str, Any], plots: Path) -> list[str]:
    """Draws every task of a file of frontier.py, and returns what stands of it on the page."""
    machine = data["machine"]
    where = f"{machine['cpu']}, torch {machine['torch']}, {data['date']}"
    lines = []
    for name, rows in data["summary"].items():
        metric = data["metrics"][name]["metric"]
        plot = plots / f"{path.stem}_{name}.svg"
        draw(rows, metric).savefig(plot, metadata={"Date": None, "Creator": None})
        seeds = max(row["seeds"] for row in rows)
        lines += [
            f"\n## {name} ({data['size']} form, {seeds} seeds)\n",
            f"[{path.name}](results/{path.name}): {where}. "
            f"{'Higher' if data['metrics'][name]['higher_is_better'] else 'Lower'} is better. {tuned(data)}\n",
            f"![{name}: {metric} against energy](plots/{plot.name})\n",
            *in_words(rows),
            f"\n| way | {metric} | FLOPs | energy | merit: energy | merit: FLOPs | energy, next to free | |",
            "|---|---|---|---|---|---|---|---|",
            *(sentence(row) for row in rows if row["share"] == 1.0),
        ]
        found = best(rows)
        if found is not None:
            merit = _merit(found["merit"][DENSE]["joules"])
            lines.append(f"\nThe least energy at equal quality: {found['title']}, {merit} of dense training's.")
    return lines


def whole_part(path: Path, data: dict[str, Any]) -> list[str]:
    """Returns what stands on the page of a file of all tasks: how long it took, and the figures of merit."""
    machine = data["machine"]
    parts: dict[str, list[dict[str, Any]]] = data["summary"]
    rows = [row for part in parts.values() for row in part]
    titles = {row["way"]: row["title"] for row in rows if row["share"] == 1.0 and row["way"] != DENSE}
    merits = {
        (task, row["way"]): row["merit"].get(DENSE, {}).get("joules")
        for task, part in parts.items()
        for row in part
        if row["share"] == 1.0
    }
    shares = sorted({row["share"] for row in rows})
    return [
        f"\n## The {data['size']} form as it is\n",
        f"[{path.name}](results/{path.name}): {machine['cpu']}, torch {machine['torch']}, {data['date']}. "
        f"`frontier.py --{data['size']}` took **{data['seconds'] / 60:.1f} minutes**, with "
        f"{max(row['seeds'] for row in rows)} seeds and the dense frontiers at {_listed([f'{s:.0%}' for s in shares])} "
        f"of the steps. {tuned(data)} The sections above have more seeds, ways and points, and are what to go by. "
        "Energy at equal quality, next to the dense frontier:\n",
        f"| way | {' | '.join(parts)} |",
        "|" + "---|" * (len(parts) + 1),
        *(
            f"| {title} | {' | '.join(_merit(merits.get((task, way))) for task in parts)} |"
            for way, title in titles.items()
        ),
    ]


def _epochs(runs: Sequence[dict[str, Any]]) -> float:
    """Returns the epochs to the target, on average over the runs that reached it."""
    return mean(each["epochs"] for each in runs if each["outcome"] == "reached")


def sweep_part(path: Path, data: dict[str, Any], plots: Path) -> list[str]:
    """Draws a file of energy_to_target.py, and returns what stands of it on the page."""
    sweep, rerun = data["sweep"], data["rerun"]
    reached = sorted((each for each in sweep["trials"] if each["mean_cost"] is not None), key=lambda t: t["mean_cost"])
    figure = Figure(figsize=(7.5, 4.2))
    axes = figure.subplots()
    colours = [ORANGE if each["trial"] == sweep["best"]["trial"] else BLUE for each in reached]
    axes.bar(range(len(reached)), [each["mean_cost"] for each in reached], color=colours)
    axes.set_xlabel("settings that reached the target, by what they took")
    axes.set_ylabel(f"J to {sweep['target']}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    plot = plots / f"{path.stem}.svg"
    figure.savefig(plot, metadata={"Date": None, "Creator": None})
    setting = ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in sweep["best"]["setting"].items()
    )
    new = [each["cost"]["energy"] for each in rerun["runs"] if each["outcome"] == "reached"]
    spread = f" ± {stdev(new):.1f}" if len(new) > 1 else ""
    machine = data["machine"]
    promise = sweep["best"].get("confirmations") or [sweep["best"], *sweep["best"]["repeats"]]
    return [
        f"\n## Energy to a target: {len(sweep['trials'])} settings on digits\n",
        f"[{path.name}](results/{path.name}): {machine['cpu']}, torch {machine['torch']}, {data['date']}.\n",
        f"![What each setting took](plots/{plot.name})\n",
        f"- {sweep['reached']} of {len(sweep['trials'])} settings reached {sweep['target']}; the dearest of them took "
        f"**{sweep['spread']:.1f} times** the energy of the best (the paper: up to 5).",
        f"- The best ({setting}) promised {rerun['promised']:.1f} J. From {len(rerun['runs'])} new seeds, "
        f"{rerun['reached']} reached it, in {mean(new):.1f}{spread} J: **{rerun['ratio']:.2f} of the promise** "
        "with what failed.",
        f"- In epochs, which no drift of the machine can change: {_epochs(rerun['runs']):.1f} on average, and "
        f"{_epochs(promise):.1f} in the {len(promise)} trainings "
        "that the promise is the mean of.",
        f"- The search took {sweep['search_cost']:.0f} J; next to {sweep['compared_with']} "
        f"({sweep['compared_with_cost']:.1f} J) "
        + (
            f"it pays back after {sweep['pays_back_after']:.0f} trainings."
            if sweep["pays_back_after"]
            else "it does not pay back."
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of README.md and plots")
    args = parser.parse_args(arguments)
    plots = args.out / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    lines, last, sources = [], [], set()
    tasks: dict[str, list[dict[str, Any]]] = {}
    for path in args.results:
        data = json.loads(path.read_text(encoding="utf-8"))
        if "sweep" in data:
            lines += sweep_part(path, data, plots)
        elif len(data["summary"]) > 1 and "seconds" in data:
            last += whole_part(path, data)
        else:
            tasks |= data["summary"]
            lines += frontier_part(path, data, plots)
        sources |= (
            {data["sweep"]["energy_source"]} if "sweep" in data else {run["energy_source"] for run in data["runs"]}
        )
    said = " and ".join(sorted(each.replace(":", ": ") for each in sources))
    seeds = {task: max(row["seeds"] for row in rows) for task, rows in tasks.items()}
    page = HEAD.format(source=said) + "\n".join([*overview(tasks, seeds), *lines, *last]) + "\n"
    (args.out / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
