"""Training steps of real models: what they take, and what the cost model says that they take and that passes save.

A step is forward, backward and SGD with momentum, or AdamW, all in eager mode, of a model with random weights. The cost
model sees shapes alone, and none of these timings.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from processes import each_apart
from real import Real
from real_models import REAL
from step_share import peak_memory
from torch import nn
from unseen_models import UNSEEN

import ecograph
from ecograph.cost.devices import Roofline
from ecograph.cost.steps import Step as Recorded
from ecograph.cost.steps import record_step
from ecograph.cost.steps.record import mean_square
from ecograph.passes import SliceOut, SparseBackward

MODELS: dict[str, Real] = {**REAL, **UNSEEN}
BATCHES = (1, 8, 32)
DTYPES = ("float32", "bfloat16")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=1e-6, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=1e-6),
}
PASSES: dict[str, Callable[[], Any]] = {
    "sparse_backward": lambda: SparseBackward(0.8, schedule="constant"),
    "sliceout": lambda: SliceOut(0.5, schedule="constant"),
}
#: Batch size at which savings are measured, and steps with AdamW.
BATCH = 8
#: Steps at the start of a turn that are not counted, and those after them, which are; and where models are compared,
#: which should find the machine in the same state.
TURN, SHORT_TURN = (2, 4), (1, 2)
#: Seconds of a step that is not disturbed by what went before, so that a turn is one step.
LONG = 2.0
#: Seconds after which a model's steps are not repeated any more.
ENOUGH = 3.0
#: The same where it is measured what passes save; and the least and most rounds there. What single rounds of a pair say
#: lies 10 to 50 points apart on a machine that is shared.
ENOUGH_SAVED, SAVING_ROUNDS = 20.0, (5, 60)


def dtypes(batch: int) -> Sequence[str]:
    """Returns the precisions that steps are timed in.

    A processor without instructions for bfloat16 takes up to thirty times as long in it: there, one sample has to do.
    """
    return DTYPES if batch == 1 or torch.ops.mkldnn._is_mkldnn_bf16_supported() else DTYPES[:1]


class Step:
    """A training step that can be timed by its parts."""

    def __init__(self, model: nn.Module, inputs: Any, dtype: str = "float32", optimizer: str = "sgd") -> None:
        self.model = model.train()
        self.inputs = inputs
        self.dtype = dtype
        self.optimizer = OPTIMIZERS[optimizer](model.parameters())

    def __call__(self) -> tuple[float, float, float]:
        """Returns the seconds of forward, backward and the optimizer's step."""
        self.optimizer.zero_grad(set_to_none=True)
        times = [time.perf_counter()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"):
            keywords = self.inputs if isinstance(self.inputs, dict) else {}
            # Held until the step is done, as training loops do.
            outputs = self.model(**keywords) if keywords else self.model(self.inputs)
            loss = mean_square(outputs)
        times.append(time.perf_counter())
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        times.append(time.perf_counter())
        return times[1] - times[0], times[2] - times[1], times[3] - times[2]


#: Seconds of a step by its parts: forward, backward, optimizer.
Parts = tuple[float, float, float]


def in_turn(
    steps: Sequence[Step], rounds: int, enough: float = ENOUGH, least: int = 2, turn: tuple[int, int] = TURN
) -> list[list[Parts]]:
    """Returns for each step, and each of the rounds, the medians of its parts, in seconds.

    The steps take turns, some at a time. The first ones of a turn find the caches, the memory and oneDNN's compiled
    kernels, of which it keeps 1024, as another model or batch size left them: no training does, so they do not count.
    """
    times: list[list[Parts]] = [[] for _ in steps]
    turns = [turn if sum(step()) < LONG else (0, 1) for step in steps]
    began = time.perf_counter()
    for done in range(rounds):
        for step, (uncounted, counted), found in zip(steps, turns, times, strict=True):
            found.append(middle([step() for _ in range(uncounted + counted)][uncounted:]))
        if done + 1 >= least and time.perf_counter() - began > enough * len(steps):
            break
    return times


def middle(times: Sequence[Parts]) -> Parts:
    """Returns the medians of the parts."""
    forward, backward, optimizer = (statistics.median(part) for part in zip(*times, strict=True))
    return forward, backward, optimizer


def recorded(model: nn.Module, inputs: Any, dtype: str, optimizer: str = "sgd") -> Recorded:
    """Returns what a step runs."""
    amp = "bf16" if dtype == "bfloat16" else None
    return record_step(model, inputs, optimizer=OPTIMIZERS[optimizer], amp=amp)


def predicted(model: nn.Module, inputs: Any, roofline: Roofline, dtype: str, optimizer: str = "sgd") -> Parts:
    """Returns what the cost model says: seconds of forward, backward and optimizer."""
    phases = dict.fromkeys(("forward", "recomputed", "backward", "optimizer"), 0.0)
    for op in recorded(model, inputs, dtype, optimizer).ops:
        phases[op.phase] += roofline.seconds(op)
    return phases["forward"], phases["backward"] + phases["recomputed"], phases["optimizer"]


def step_times(name: str, roofline: Roofline, batches: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Returns a row for each batch size and precision of a model, and for its optimizer."""
    torch.manual_seed(0)
    real = MODELS[name]
    model = real.build()
    settings = [(batch, dtype, "sgd") for batch in batches for dtype in DTYPES if dtype in dtypes(batch)]
    settings += [(batch, "float32", "adamw") for batch in batches if batch == BATCH]
    inputs = {batch: real.inputs(batch) for batch in batches}
    settings = [(batch, *rest) for batch, *rest in settings if _runs(model, inputs[batch], *rest)]
    says = [predicted(model, inputs[batch], roofline, *rest) for batch, *rest in settings]
    steps = [Step(model, inputs[batch], *rest) for batch, *rest in settings]
    times = map(middle, in_turn(steps, rounds))
    return [
        {
            "model": name, "batch": batch, "dtype": dtype, "optimizer": optimizer, "measured": list(measured),
            "predicted": list(seconds), "error": sum(seconds) / sum(measured) - 1,
        }
        for (batch, dtype, optimizer), seconds, measured in zip(settings, says, times, strict=True)
    ]  # fmt: skip


def _runs(model: nn.Module, inputs: Any, dtype: str, optimizer: str) -> bool:
    """Whether torch can run a step here: it has no LSTM in bfloat16 where the processor has no instructions for it."""
    try:
        Step(model, inputs, dtype, optimizer)()
    except RuntimeError as error:
        if dtype == "float32":
            raise
        print(f"left out, {type(model).__name__} in {dtype}: {str(error).splitlines()[0]}", file=sys.stderr)
        return False
    return True


#: Model, batch size and precision.
Setting = tuple[str, int, str]


def peaks(names: Sequence[str], batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields a row for each model, batch size and precision: bytes at the peak of a step."""
    settings: list[Setting] = [(name, batch, dtype) for name in names for batch in batches for dtype in dtypes(batch)]
    measured = each_apart(measured_peak, settings, imported=[__name__])
    for (name, batch, dtype), peak in zip(settings, measured, strict=True):
        real = MODELS[name]
        says = recorded(real.build(), real.inputs(batch), dtype).activation_bytes
        yield {"model": name, "batch": batch, "dtype": dtype, "peak_measured": peak, "peak_predicted": says}


def measured_peak(setting: Setting) -> int:
    """Returns the bytes at the peak of a model's step, by torch's own account.

    The profiler keeps the addresses of all that was allocated while it was on, and takes what lies there later for it:
    only the first account of a process is right.
    """
    name, batch, dtype = setting
    torch.manual_seed(0)
    return peak_memory(Step(MODELS[name].build(), MODELS[name].inputs(batch), dtype))


def savings(name: str, roofline: Roofline, rounds: int) -> list[dict[str, Any]]:
    """Returns a row for each pass: what share of a step it saves."""
    torch.manual_seed(0)
    real = MODELS[name]
    plain, inputs = real.build(), real.inputs(BATCH)
    models = {"plain": plain}
    for key, make in PASSES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ecograph.NoEffectWarning)
            models[key] = ecograph.optimize(copy.deepcopy(plain), example_inputs=inputs, passes=[make()])
    says = {key: sum(predicted(model, inputs, roofline, "float32")) for key, model in models.items()}
    # The machine's pace changes from round to round: what a pass saves is the median of what it saved in each.
    steps = [Step(model, inputs) for model in models.values()]
    least, most = SAVING_ROUNDS
    turns = in_turn(steps, most if rounds > 1 else 1, ENOUGH_SAVED, least, SHORT_TURN)
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
