"""How well the cost model predicts: step times, savings of passes and memory of real models, against measurement.

    python benchmarks/cost_model.py --json out.json        # calibrates, then everything: 35 minutes on 2 CPU cores
    python benchmarks/cost_model.py --only resnet18 gpt2   # some models
    python benchmarks/cost_model.py --quick                # does it run?

The machine is calibrated first, in the same process. Then each model, with random weights, is trained for some steps
at batch sizes 1, 8 and 32, in float32 and under bfloat16 autocast; a step is forward, backward and SGD with momentum,
all in eager mode. The process keeps the memory that was freed (``ecograph.keep_memory()``), as calibrating does: else
a step takes longer or not as its tensors happen to lie. Batch sizes and precisions of a model take turns. What each
pass saves is measured at batch size 8 in float32, the plain and the rewritten models in turn, of which the passes
rewrite what pays; the memory at a step's peak there too, without passes. The cost model sees shapes alone, and none of
these timings.
"""

from __future__ import annotations

import atexit
import copy
import gc
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from tempfile import TemporaryDirectory
from typing import Any

import torch
from command import parser, write_json
from real_models import REAL
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step_share import peak_memory
from torch import nn

import ecograph
from ecograph.cost.calibration import calibrate
from ecograph.cost.devices import Device, Roofline, find_device, stored
from ecograph.cost.steps import record_step
from ecograph.cost.steps.record import mean_square
from ecograph.passes import SliceOut, SparseBackward

BATCHES = (1, 8, 32)
DTYPES = ("float32", "bfloat16")
PASSES: dict[str, Callable[[], Any]] = {
    "sparse_backward": lambda: SparseBackward(0.8, schedule="constant"),
    "sliceout": lambda: SliceOut(0.5, schedule="constant"),
}
#: Batch size at which savings are measured.
BATCH = 8
#: Steps at the start of a turn that are not counted, and those after them, which are.
UNCOUNTED, TURN = 2, 4
#: Seconds after which a model's steps are not repeated any more.
ENOUGH = 3.0
#: The same where it is measured what passes save, in rounds of short turns; and the least and most rounds there. What
#: single rounds of a pair say lies 10 to 50 points apart on a machine that is shared.
ENOUGH_SAVED, SAVING_ROUNDS = 12.0, (5, 30)


class Step:
    """A training step that can be timed by its parts."""

    def __init__(self, model: nn.Module, inputs: Any, dtype: str = "float32") -> None:
        self.model = model.train()
        self.inputs = inputs
        self.dtype = dtype
        self.optimizer = sgd(model.parameters())

    def __call__(self) -> tuple[float, float, float]:
        """Returns the seconds of forward, backward and the optimizer's step."""
        self.optimizer.zero_grad(set_to_none=True)
        times = [time.perf_counter()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"):
            keywords = self.inputs if isinstance(self.inputs, dict) else {}
            loss = mean_square(self.model(**keywords) if keywords else self.model(self.inputs))
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        times.append(time.perf_counter())
        return times[1] - times[0], times[2] - times[1], times[3] - times[2]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """Returns the optimizer of all steps."""
    return torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)


#: Seconds of a step by its parts: forward, backward, optimizer.
Parts = tuple[float, float, float]


def in_turn(steps: Sequence[Step], rounds: int, enough: float = ENOUGH, least: int = 2) -> list[list[Parts]]:
    """Returns for each step, and each of the rounds, the medians of its parts, in seconds.

    The steps take turns, some at a time. The first ones of a turn find the caches, the memory and oneDNN's compiled
    kernels, of which it keeps 1024, as another model or batch size left them: no training does, so they do not count.
    """
    times: list[list[Parts]] = [[] for _ in steps]
    began = time.perf_counter()
    for done in range(rounds):
        for step, found in zip(steps, times, strict=True):
            found.append(middle([step() for _ in range(UNCOUNTED + TURN)][UNCOUNTED:]))
        if done + 1 >= least and time.perf_counter() - began > enough * len(steps):
            break
    return times


def middle(times: Sequence[Parts]) -> Parts:
    """Returns the medians of the parts."""
    forward, backward, optimizer = (statistics.median(part) for part in zip(*times, strict=True))
    return forward, backward, optimizer


def predicted(model: nn.Module, inputs: Any, roofline: Roofline, dtype: str) -> tuple[tuple[float, ...], int]:
    """Returns what the cost model says: seconds of forward, backward and optimizer, and bytes at the peak."""
    amp = "bf16" if dtype == "bfloat16" else None
    step = record_step(model, inputs, optimizer=sgd, amp=amp)
    phases = dict.fromkeys(("forward", "recomputed", "backward", "optimizer"), 0.0)
    for op in step.ops:
        phases[op.phase] += roofline.seconds(op)
    seconds = phases["forward"], phases["backward"] + phases["recomputed"], phases["optimizer"]
    return seconds, step.activation_bytes


def step_times(name: str, roofline: Roofline, batches: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Returns a row for each batch size and precision of a model."""
    torch.manual_seed(0)
    real = REAL[name]
    model = real.build()
    settings = [(batch, dtype) for batch in batches for dtype in DTYPES]
    inputs = {batch: real.inputs(batch) for batch in batches}
    says = [predicted(model, inputs[batch], roofline, dtype) for batch, dtype in settings]
    steps = [Step(model, inputs[batch], dtype) for batch, dtype in settings]
    rows = []
    times = map(middle, in_turn(steps, rounds))
    for (batch, dtype), (seconds, memory), measured in zip(settings, says, times, strict=True):
        row = {"model": name, "batch": batch, "dtype": dtype, "measured": list(measured), "predicted": list(seconds)}
        row["error"] = sum(seconds) / sum(measured) - 1
        if dtype == "float32" and batch == BATCH:
            row |= {"peak_predicted": memory, "peak_measured": in_a_process_of_its_own(measured_peak, name, batch)}
        rows.append(row)
    return rows


def measured_peak(name: str, batch: int) -> int:
    """Returns the bytes at the peak of a model's step, by torch's own account."""
    torch.manual_seed(0)
    step = Step(REAL[name].build(), REAL[name].inputs(batch))
    return peak_memory(step)


def in_a_process_of_its_own(measure: Callable[..., int], *arguments: Any) -> int:
    """Returns what a function returns elsewhere.

    The profiler keeps the addresses of all that was allocated while it was on, and takes what lies there later for it:
    only the first account of a process is right.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def savings(name: str, roofline: Roofline, rounds: int) -> list[dict[str, Any]]:
    """Returns a row for each pass: what share of a step it saves."""
    torch.manual_seed(0)
    real = REAL[name]
    plain, inputs = real.build(), real.inputs(BATCH)
    models = {"plain": plain}
    for key, make in PASSES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ecograph.NoEffectWarning)
            models[key] = ecograph.optimize(copy.deepcopy(plain), example_inputs=inputs, passes=[make()])
    says = {key: sum(predicted(model, inputs, roofline, "float32")[0]) for key, model in models.items()}
    # The machine's pace changes from round to round: what a pass saves is the median of what it saved in each.
    steps = [Step(model, inputs) for model in models.values()]
    least, most = SAVING_ROUNDS
    turns = in_turn(steps, most if rounds > 1 else 1, ENOUGH_SAVED, least)
    takes = {key: [sum(parts) for parts in found] for key, found in zip(models, turns, strict=True)}
    saved = {
        key: [1 - mine / plain for mine, plain in zip(takes[key], takes["plain"], strict=True)] for key in PASSES
    }  # fmt: skip
    return [
        {
            "model": name,
            "pass": key,
            "measured": statistics.median(saved[key]),
            "rounds": saved[key],
            "predicted": 1 - says[key] / says["plain"],
            "rewritten": sum(bool(layer.rewritten_by) for layer in ecograph.explain(models[key]).layers),
        }
        for key in PASSES
    ]


def summary(times: Sequence[dict[str, Any]], saved: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures that say how good the predictions are."""
    found: dict[str, Any] = {}
    for dtype in ("all", *DTYPES):
        errors = [abs(row["error"]) for row in times if dtype in ("all", row["dtype"])]
        if errors:
            found[f"step time, {dtype}"] = {"median": statistics.median(errors), "worst": max(errors)}
    memory = [abs(row["peak_predicted"] / row["peak_measured"] - 1) for row in times if "peak_predicted" in row]
    if memory:
        found["peak memory"] = {"median": statistics.median(memory), "worst": max(memory)}
    apart = [abs(row["predicted"] - row["measured"]) for row in saved]
    if apart:
        within = sum(each <= 0.05 for each in apart) / len(apart)
        found["saving"] = {"within 5 points": within, "median": statistics.median(apart), "worst": max(apart)}
    return found


def show(console: Console, times: Sequence[dict[str, Any]], saved: Sequence[dict[str, Any]]) -> None:
    """Prints all rows and the summary."""
    table = Table("model", "batch", "dtype", "measured, ms", "predicted, ms", "forward", "backward", "error", "peak")
    for row in times:
        forward, backward = (row["predicted"][part] / row["measured"][part] - 1 for part in (0, 1))
        peak = f"{row['peak_predicted'] / row['peak_measured'] - 1:+.0%}" if "peak_predicted" in row else ""
        table.add_row(
            row["model"], str(row["batch"]), row["dtype"], f"{1e3 * sum(row['measured']):.1f}",
            f"{1e3 * sum(row['predicted']):.1f}", f"{forward:+.0%}", f"{backward:+.0%}", f"{row['error']:+.0%}", peak,
        )  # fmt: skip
    if times:
        console.print(table)
    if saved:
        table = Table("model", "pass", "saved, measured", "predicted", "apart")
        for row in saved:
            apart = row["predicted"] - row["measured"]
            table.add_row(
                row["model"], row["pass"], f"{row['measured']:.1%}", f"{row['predicted']:.1%}", f"{100 * apart:+.1f}"
            )
        console.print(table)
    for name, figures in summary(times, saved).items():
        console.print(f"{name}: " + ", ".join(f"{key} {value:.1%}" for key, value in figures.items()))


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
    made.add_argument("--parts", nargs="+", choices=("times", "savings"), default=("times", "savings"))
    made.add_argument("--quick", action="store_true", help="one small model, few steps, no calibration: does it run?")
    options = made.parse_args(arguments)
    console = Console()
    names = options.only or (["resnet18"] if options.quick else list(REAL))
    batches, rounds = ((1,), 1) if options.quick else (BATCHES, options.rounds)
    times: list[dict[str, Any]] = []
    saved: list[dict[str, Any]] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("calibration", total=len(names) + 1)
        began = time.perf_counter()
        device: Device = find_device("generic-cpu") if options.quick else stored_here(calibrate())
        seconds = time.perf_counter() - began
        roofline = Roofline(device)
        for name in names:
            progress.update(task, advance=1, description=name)
            if "times" in options.parts:
                times += step_times(name, roofline, batches, rounds)
                gc.collect()
            if "savings" in options.parts:
                saved += savings(name, roofline, rounds)
                gc.collect()
            result = {"calibration_seconds": seconds, "summary": summary(times, saved), "times": times}
            write_json(options.json, {**result, "savings": saved})  # what is there, should the rest be interrupted
    show(console, times, saved)
    console.print(f"calibration: {len(device.timings)} timings in {seconds:.0f} s, spread {device.spread:.1%}")


if __name__ == "__main__":
    main()
