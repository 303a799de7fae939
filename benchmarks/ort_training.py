"""ONNX Runtime training next to PyTorch: are the loss curves the same, and what does the sparse backward save there?

    python benchmarks/ort_training.py                     # everything: about 20 minutes on 2 CPU cores
    python benchmarks/ort_training.py --curves            # loss curves only
    python benchmarks/ort_training.py --steps             # step times only
    python benchmarks/ort_training.py --curves --only mlp gpt --json out.json

Curves: the same weights and the same batches, trained for 50 steps by both with AdamW or SGD: dense, with the sparse
backward at a constant drop of 0.8, and on slices of half of every inner width. "Apart" is the largest relative
difference of the losses in any step; how far PyTorch comes apart from itself stands beside it. Sparse, both keep the
same channels; how near to a tie those were that PyTorch would have swapped is the "gap", and "alone" is what comes of
it. ``ort_curves.py`` says this in full, and how the learning rate is chosen.

Steps: forward, backward and SGD, on the same batch in turn in one process; medians.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command import parser, write_json
from models import resnet
from ort_curves import LADDER, NUDGE, SENSITIVE, WAYS, choose_rate, curve
from ort_tasks import TASKS
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from timing import interleaved
from torch import nn

import ecograph
from ecograph.export import OrtTrainer

STEPS = 50
TARGET_APART, TARGET_SHARE = 1e-3, 0.60


def curve_rows(names: list[str], steps: int, advance: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields for each task the learning rate, and how far the curves are apart in each way to train."""
    for name in names:
        chosen = choose_rate(TASKS[name], steps)
        advance()
        rows = []
        for way in WAYS:
            rows.append(curve(name, way, chosen, steps))
            advance()
        yield {"task": name, "rate": chosen, "curves": rows}


def step_rows(rounds: int, advance: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields the times of ResNet-18's steps: PyTorch and ONNX Runtime, in each way to train."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(100, (32,))
    dense = resnet((2, 2, 2, 2), False, True)
    runs: dict[str, Callable[[], Callable[[], Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, passes in WAYS.items():
            model = copy.deepcopy(dense).train()
            if passes:
                ecograph.optimize(model, example_inputs=(x,), passes=passes)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

            def torch_step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

            path = ecograph.export_onnx_training(model, (x,), optimizer=optimizer, path=Path(folder) / way)
            trainer = OrtTrainer(path)

            def ort_step(trainer: OrtTrainer = trainer) -> None:
                trainer.train_step(x, targets=y)

            runs[f"torch {way}"] = lambda step=torch_step: step  # type: ignore[misc]
            runs[f"ort {way}"] = lambda step=ort_step: step  # type: ignore[misc]
        times = interleaved(runs, rounds)
    advance()
    yield {
        "model": "resnet18, CIFAR stem, batch 32",
        "milliseconds": times,
        "shares": {f"{name} {way}": times[f"{name} {way}"] / times[f"{name} dense"]
                   for name in ("torch", "ort") for way in WAYS if way != "dense"},
        "ort_dense_share_of_torch": times["ort dense"] / times["torch dense"],
    }  # fmt: skip


def curve_table(tasks: list[dict[str, Any]]) -> Table:
    """Returns the curves as a table."""
    table = Table(title="ONNX Runtime next to PyTorch: largest relative difference of the losses in any step")
    columns = ("model", "optimizer", "lr", "way", "loss", "apart", "torch itself", "swaps, gap", "alone", "round trip")
    for column in columns:
        table.add_column(column, justify="left" if column in ("model", "way") else "right")
    for row in (row for task in tasks for row in task["curves"]):
        itself, gap = row["float32_apart"], row["largest_gap"]
        wrong = row["apart"] >= TARGET_APART or (gap or 0) >= TARGET_APART
        table.add_row(
            row["task"], row["optimizer"], f"{row['lr']:g}", row["way"],
            f"{row['first_loss']:.3f} → {row['last_loss']:.3f}", f"{row['apart']:.1e}",
            "" if itself is None else f"{itself:.1e}", "" if gap is None else f"{len(row['swaps'])}, {gap:.1e}",
            f"{row['left_alone']:.1e}", f"{row['round_trip']:.1e}", style="red" if wrong else None,
        )  # fmt: skip
    return table


def step_table(rows: list[dict[str, Any]]) -> Table:
    """Returns the step times as a table."""
    table = Table(title="Training step, milliseconds (medians), and share of the dense one")
    for column in ("model", "", *WAYS):
        table.add_column(column, justify="right" if column in WAYS else "left")
    for row in rows:
        for name in ("torch", "ort"):
            cells = []
            for way in WAYS:
                share = row["shares"].get(f"{name} {way}")
                time = f"{row['milliseconds'][f'{name} {way}']:.0f}"
                cells.append(time if share is None else f"{time} ({share:.2f})")
            table.add_row(row["model"], name, *cells)
    return table


def main() -> None:
    options = parser(__doc__, only=list(TASKS), rounds=9)
    options.add_argument("--curves", action="store_true", help="loss curves only")
    options.add_argument("--steps", action="store_true", help="step times only")
    options.add_argument("--length", type=int, default=STEPS, help="steps of the curves")
    args = options.parse_args()
    both = args.curves == args.steps
    names = args.only or list(TASKS)
    console = Console()
    result: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = ((1 + len(WAYS)) * len(names) if args.curves or both else 0) + (args.steps or both)
        bar = progress.add_task("training", total=total)
        if args.curves or both:
            result["rule"] = {"ladder": LADDER, "nudge": NUDGE, "within": SENSITIVE}
            result["curves"] = list(curve_rows(names, args.length, lambda: progress.advance(bar)))
        if args.steps or both:
            result["steps"] = list(step_rows(args.rounds, lambda: progress.advance(bar)))
    if "curves" in result:
        console.print(curve_table(result["curves"]))
    if "steps" in result:
        console.print(step_table(result["steps"]))
    import onnxruntime

    write_json(args.json, {"onnxruntime": onnxruntime.__version__, **result})


if __name__ == "__main__":
    main()
