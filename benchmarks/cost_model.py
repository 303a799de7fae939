"""How well the cost model predicts: FLOPs, step times, savings of passes and memory of real models; and how quickly.

    python benchmarks/cost_model.py --json out.json        # calibrates, then everything: 35 minutes on 2 CPU cores
    python benchmarks/cost_model.py --only resnet18 gpt2   # times and savings of some models
    python benchmarks/cost_model.py --parts flops analysis --plot out.png
    python benchmarks/cost_model.py --quick                # does it run?

flops: of every model that capture is tested with, against those counted in an eager step. analysis: the time and memory
that analysing takes, of GPTs of ten depths, ResNet-50, and a Llama of 70 billion parameters. times: the machine is
calibrated first, in the same process; then each model is trained for some steps at batch sizes 1, 8 and 32, in float32
and under bfloat16 autocast. The process keeps the memory that was freed (``ecograph.keep_memory()``), as calibrating
does: else a step takes longer or not as its tensors happen to lie. Batch sizes and precisions of a model take turns.
The memory at a step's peak is taken at batch size 8 in float32. savings: what each pass saves there, the plain and the
rewritten models in turn, of which the passes rewrite what pays.
"""

from __future__ import annotations

import atexit
import gc
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analysis_time import DEPTHS, OTHERS, analyse, plot, slope
from command import parser, write_json
from processes import elsewhere
from real_models import REAL
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step_predictions import BATCHES, DTYPES, savings, step_times
from zoo_flops import ZOO, counted, exact

from ecograph.cost.calibration import calibrate
from ecograph.cost.devices import Device, Roofline, find_device, stored

#: What is benchmarked, and those parts of it that need a calibrated machine.
PARTS = ("flops", "analysis", "times", "savings")
TIMED = ("times", "savings")

Rows = list[dict[str, Any]]


def summary(found: dict[str, Rows]) -> dict[str, dict[str, Any]]:
    """Returns the figures that say how good the predictions are."""
    figures: dict[str, dict[str, Any]] = {}
    if flops := found["flops"]:
        figures["FLOPs"] = {"models": len(flops), "exact": sum(map(exact, flops)) / len(flops)}
    for row in found["analysis"]:
        if row["model"] in OTHERS:
            figures[f"analysis, {row['model']}"] = {"seconds": row["seconds"], "GB": row["bytes"] / 1e9}
    depths = [row for row in found["analysis"] if row["model"] in DEPTHS]
    if len(depths) > 1:
        figures["analysis, GPTs"] = {"exponent of the operations": slope(depths)}
    times = found["times"]
    for dtype in ("all", *DTYPES):
        errors = [abs(row["error"]) for row in times if dtype in ("all", row["dtype"])]
        if errors:
            figures[f"step time, {dtype}"] = {"median": statistics.median(errors), "worst": max(errors)}
    memory = [abs(row["peak_predicted"] / row["peak_measured"] - 1) for row in times if "peak_predicted" in row]
    if memory:
        figures["peak memory"] = {"median": statistics.median(memory), "worst": max(memory)}
    apart = [abs(row["predicted"] - row["measured"]) for row in found["savings"]]
    if apart:
        within = sum(each <= 0.05 for each in apart) / len(apart)
        figures["saving"] = {"within 5 points": within, "median": statistics.median(apart), "worst": max(apart)}
    return figures


#: Figures that are no shares.
PLAIN = {"models": "{}", "seconds": "{:.2f}", "GB": "{:.2f}", "exponent of the operations": "{:.2f}"}


def show(console: Console, found: dict[str, Rows]) -> None:
    """Prints all rows and the summary; of FLOPs those that are not exact."""
    wrong = [row for row in found["flops"] if not exact(row)]
    if wrong:
        table = Table("model", "FLOPs counted: forward, backward", "as the cost model says", "uncounted")
        for row in wrong:
            table.add_row(row["model"], str(row["counted"]), str(row["predicted"]), " ".join(row["uncounted"]))
        console.print(table)
    if found["analysis"]:
        table = Table("analysed", "parameters", "operations", "seconds", "CPU seconds", "memory, GB")
        for row in found["analysis"]:
            table.add_row(
                row["model"], f"{row['parameters']:,}", f"{row['operations']:,}", f"{row['seconds']:.2f}",
                f"{row['cpu_seconds']:.2f}", f"{row['bytes'] / 1e9:.2f}",
            )  # fmt: skip
        console.print(table)
    if found["times"]:
        table = Table(
            "model", "batch", "dtype", "measured, ms", "predicted, ms", "forward", "backward", "error", "peak"
        )  # fmt: skip
        for row in found["times"]:
            forward, backward = (row["predicted"][part] / row["measured"][part] - 1 for part in (0, 1))
            peak = f"{row['peak_predicted'] / row['peak_measured'] - 1:+.0%}" if "peak_predicted" in row else ""
            table.add_row(
                row["model"], str(row["batch"]), row["dtype"], f"{1e3 * sum(row['measured']):.1f}",
                f"{1e3 * sum(row['predicted']):.1f}", f"{forward:+.0%}", f"{backward:+.0%}", f"{row['error']:+.0%}",
                peak,
            )  # fmt: skip
        console.print(table)
    if found["savings"]:
        table = Table("model", "pass", "saved, measured", "predicted", "apart")
        for row in found["savings"]:
            apart = row["predicted"] - row["measured"]
            table.add_row(
                row["model"], row["pass"], f"{row['measured']:.1%}", f"{row['predicted']:.1%}", f"{100 * apart:+.1f}"
            )
        console.print(table)
    for name, figures in summary(found).items():
        said = (f"{key} {PLAIN.get(key, '{:.1%}').format(value)}" for key, value in figures.items())
        console.print(f"{name}: " + ", ".join(said))


def stored_here(device: Device) -> Device:
    """Returns a device that was calibrated, kept where the passes look for it, until this process ends."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    os.environ["ECOGRAPH_CACHE"] = folder.name
    stored.save(device)
    return find_device()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    made = parser(__doc__ or "", only=list(REAL), rounds=4)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=None, help="all, or with --only those of models")
    made.add_argument("--plot", type=Path, default=None, help="write the plot of analysis times to this file")
    made.add_argument("--quick", action="store_true", help="small models, few steps, no calibration: does it run?")
    options = made.parse_args(arguments)
    console = Console()
    parts = options.parts or (TIMED if options.only else PARTS)
    names = (options.only or (["resnet18"] if options.quick else list(REAL))) if set(parts) & set(TIMED) else []
    batches, rounds = ((1,), 1) if options.quick else (BATCHES, options.rounds)
    zoo, analysed = (1, DEPTHS[:2]) if options.quick else (len(ZOO), (*DEPTHS, *OTHERS))
    found: dict[str, Rows] = {part: [] for part in PARTS}
    result: dict[str, Any] = {}
    with Progress(console=Console(stderr=True)) as progress:
        if "flops" in parts:
            found["flops"] = list(progress.track(elsewhere(counted, range(zoo), threads=1), zoo, description="FLOPs"))
        if "analysis" in parts:
            for name in progress.track(analysed, description="analysis"):
                found["analysis"] += elsewhere(analyse, [name])
        task = progress.add_task("calibration", total=len(names) + 1, visible=bool(names))
        if names:
            began = time.perf_counter()
            device: Device = find_device("generic-cpu") if options.quick else stored_here(calibrate())
            result["calibration_seconds"] = time.perf_counter() - began
            roofline = Roofline(device)
        for name in names:
            progress.update(task, advance=1, description=name)
            if "times" in parts:
                found["times"] += step_times(name, roofline, batches, rounds)
                gc.collect()
            if "savings" in parts:
                found["savings"] += savings(name, roofline, rounds)
                gc.collect()
            # What is there, should the rest be interrupted.
            write_json(options.json, {**result, "summary": summary(found), **found})
    write_json(options.json, {**result, "summary": summary(found), **found})
    show(console, found)
    if names:
        seconds = result["calibration_seconds"]
        console.print(f"calibration: {len(device.timings)} timings in {seconds:.0f} s, spread {device.spread:.1%}")
    if options.plot is not None and found["analysis"]:
        plot([row for row in found["analysis"] if row["model"] in DEPTHS], options.plot)


if __name__ == "__main__":
    main()
