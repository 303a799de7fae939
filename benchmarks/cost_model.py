"""How well the cost model predicts: FLOPs, step times, savings of passes and memory of real models; and how quickly.

    python benchmarks/cost_model.py --json out.json        # calibrates, then everything: an hour on 2 CPU cores
    python benchmarks/cost_model.py --only resnet18 gpt2   # times and savings of some models
    python benchmarks/cost_model.py --parts flops analysis --plot out.png
    python benchmarks/cost_model.py --quick                # does it run?

flops: of every model that capture is tested with, against those counted in an eager step. analysis: the time and memory
that analysing takes, of GPTs of ten depths, ResNet-50, and a Llama of 70 billion parameters. times: the machine is
calibrated first, in the same process; then each model is trained for some steps at batch sizes 1, 8 and 32, in float32
and under bfloat16 autocast, with SGD; and at batch size 8 with AdamW. The process keeps the memory that was freed
(``ecograph.keep_memory()``), as calibrating does: else a step takes longer or not as its tensors happen to lie. All
settings of a model take turns. savings: what each pass saves at batch size 8 in float32, the plain and the rewritten
models in turn, of which the passes rewrite what pays. memory: the memory at a step's peak, each in a process of its
own. unseen: step times of other models, which the cost model was not made on.
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
from step_predictions import BATCHES, DTYPES, dtypes, peaks, savings, step_times
from unseen_models import UNSEEN
from zoo_flops import ZOO, counted, exact

from ecograph.cost.calibration import calibrate
from ecograph.cost.devices import Device, Roofline, find_device, stored

#: What is benchmarked, and those parts of it that need a calibrated machine.
PARTS = ("flops", "analysis", "times", "savings", "memory", "unseen")
TIMED = ("times", "savings")

#: Parts of a step that are timed.
PHASES = ("forward", "backward", "optimizer")

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
    for part, of in (("times", "step time"), ("unseen", "step time, unseen models")):
        for dtype in ("all", *DTYPES):
            errors = [row["error"] for row in found[part] if dtype in ("all", row["dtype"])]
            if errors:
                figures[f"{of}, {dtype}"] = spread(errors)
        for index, phase in enumerate(PHASES):
            if found[part]:
                figures[f"{of}, {phase}"] = spread([_off(row, index) for row in found[part]])
    if found["memory"]:
        figures["peak memory"] = spread([row["peak_predicted"] / row["peak_measured"] - 1 for row in found["memory"]])
    apart = [abs(row["predicted"] - row["measured"]) for row in found["savings"]]
    if apart:
        within = sum(each <= 0.05 for each in apart) / len(apart)
        figures["saving"] = {"within 5 points": within, "median": statistics.median(apart), "worst": max(apart)}
    return figures


def spread(errors: Sequence[float]) -> dict[str, float]:
    """Returns how far predictions are off, whichever way."""
    sizes = list(map(abs, errors))
    return {"median": statistics.median(sizes), "worst": max(sizes)}


def _off(row: dict[str, Any], phase: int) -> float:
    """Returns how far the prediction of a phase of a step is off, as a share of what was measured."""
    error: float = row["predicted"][phase] / row["measured"][phase] - 1
    return error


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
    for part in ("times", "unseen"):
        if found[part]:
            headers = ("model", "batch", "dtype", "optimizer", "ms", "predicted", *PHASES, "error")
            table = Table(*headers, title=part, padding=(0, 0))
            for row in found[part]:
                table.add_row(
                    row["model"], str(row["batch"]), row["dtype"], row["optimizer"],
                    f"{1e3 * sum(row['measured']):.1f}", f"{1e3 * sum(row['predicted']):.1f}",
                    *(f"{_off(row, phase):+.0%}" for phase in range(len(PHASES))),
                    f"{row['error']:+.0%}",
                )  # fmt: skip
            console.print(table)
    if found["memory"]:
        table = Table("model", "batch", "dtype", "peak measured, MB", "predicted", "error")
        for row in found["memory"]:
            measured, says = row["peak_measured"], row["peak_predicted"]
            table.add_row(
                row["model"], str(row["batch"]), row["dtype"], f"{measured / 1e6:.1f}", f"{says / 1e6:.1f}",
                f"{says / measured - 1:+.1%}",
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
    made = parser(__doc__ or "", only=[*REAL, *UNSEEN], rounds=4)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=None, help="all, or with --only those of models")
    made.add_argument("--plot", type=Path, default=None, help="write the plot of analysis times to this file")
    made.add_argument("--quick", action="store_true", help="small models, few steps, no calibration: does it run?")
    options = made.parse_args(arguments)
    console = Console()
    parts = options.parts or (TIMED if options.only else PARTS)
    real, others = (["resnet18"], ["squeezenet"]) if options.quick else (list(REAL), list(UNSEEN))
    known = options.only or real if set(parts) & set(TIMED) else []
    unseen = options.only or others if "unseen" in parts else []
    names = [*known, *unseen]
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
        for name in known:
            progress.update(task, advance=1, description=name)
            if "times" in parts:
                found["times"] += step_times(name, roofline, batches, rounds)
                gc.collect()
            if "savings" in parts:
                found["savings"] += savings(name, roofline, rounds)
                gc.collect()
            # What is there, should the rest be interrupted.
            write_json(options.json, {**result, "summary": summary(found), **found})
        for name in unseen:
            progress.update(task, advance=1, description=name)
            found["unseen"] += step_times(name, roofline, batches, rounds)
            gc.collect()
            write_json(options.json, {**result, "summary": summary(found), **found})
        if "memory" in parts:
            held = options.only or real
            settings = len(held) * sum(len(dtypes(batch)) for batch in batches)
            found["memory"] = list(progress.track(peaks(held, batches), settings, description="memory"))
    write_json(options.json, {**result, "summary": summary(found), **found})
    show(console, found)
    if names:
        seconds = result["calibration_seconds"]
        console.print(f"calibration: {len(device.timings)} timings in {seconds:.0f} s, spread {device.spread:.1%}")
    if options.plot is not None and found["analysis"]:
        plot([row for row in found["analysis"] if row["model"] in DEPTHS], options.plot)


if __name__ == "__main__":
    main()
