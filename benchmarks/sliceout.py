"""How much time SliceOut saves: whole training steps, next to the ideal and to a network that really is that small.

    python benchmarks/sliceout.py                # float32, eager: about 10 minutes on 2 CPU cores
    python benchmarks/sliceout.py --quick        # rate 0.5 only, fewer rounds: about 2 minutes
    python benchmarks/sliceout.py --full         # also bfloat16 autocast, channels_last and torch.compile
    python benchmarks/sliceout.py --only lm wrn-16-8 --json out.json

Three kinds of steps run in turn in one process, and every figure is a median: dense, sliced at each rate, and the small
network: the same architecture built with the sliced widths. A step is zero_grad, forward, backward and an SGD step with
momentum. Two yardsticks stand beside the sliced step:

- the ideal: FLOPs of the sliced step / FLOPs of the dense one, counted from shapes. It counts products only, as if
  norms, activations, loss and optimizer took no time, so nothing reaches it; "times ideal" has all of those in it.
- the small network, which does all that the sliced one has to do in each step and nothing else. What the sliced step
  takes more than this is the method's own cost: taking slices, putting gradients back in place, and an optimizer that
  goes over the full parameters.

The rate is constant; what training costs on average depends on the schedule.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from command import parser, write_json
from models import MODELS
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step_share import activation_memory, peak_memory
from steps import DTYPES, FORMATS, loss, model_and_inputs, training_step
from timing import interleaved
from torch import Tensor, nn

import ecograph
from ecograph import registry

RATES = (0.25, 0.5, 0.75)
#: What is timed by default, and what --only can ask for beside it.
NAMES = ("mlp", "wrn-block", "wrn-16-8", "vit-s", "gpt2", "lm")
EXTRA = ("resnet18", "resnet50", "convnext")

#: name of a pass -> its options at a rate. Others than SliceOut are there to compare with.
PASSES: dict[str, Callable[[float], dict[str, Any]]] = {
    "sliceout": lambda rate: {"rate": rate, "schedule": "constant", "when": "always"},
    "sparse_backward": lambda rate: {
        "drop": rate, "schedule": "constant", "when": "always", "skip_first": False, "skip_last": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One way of running a model's steps: keys of ``MODELS``, ``DTYPES`` and ``FORMATS``, and eager or compiled."""

    model: str
    dtype: str = "float32"
    format: str = "default"
    mode: str = "eager"


def settings(names: Sequence[str], full: bool) -> list[Setting]:
    """Returns what is run for these models: float32 and eager, or with ``full`` everything there is."""
    if not full:
        return [Setting(name) for name in names]
    return [
        Setting(name, dtype, memory_format, mode)
        for name in names
        for dtype, memory_format, mode in product(
            DTYPES, FORMATS if MODELS[name].images else ("default",), ("eager", "compiled")
        )
    ]


def rows(setting: Setting, rates: Sequence[float], rounds: int, pass_name: str = "sliceout") -> list[dict[str, Any]]:
    """Times one model and returns a row of figures for each rate.

    Args:
        setting: which model, and how it is run.
        rates: shares of the inner widths that are left out.
        rounds: counted ones.
        pass_name: one of ``PASSES``.
    """
    torch._dynamo.reset()
    spec = MODELS[setting.model]
    dense, inputs = model_and_inputs(spec, setting.format)
    models = {"dense": dense}
    for rate in rates:
        passes = [registry.find(pass_name)(**PASSES[pass_name](rate))]
        models[f"sliced {rate}"] = ecograph.optimize(copy.deepcopy(dense), example_inputs=inputs, passes=passes)
        models[f"small {rate}"] = model_and_inputs(spec, setting.format, share=1 - rate)[0]
    memory = {key: peak_memory(training_step(m, inputs, setting.dtype, "eager")) for key, m in models.items()}
    activations = {key: activation_memory(m, lambda m=m: loss(m, inputs, setting.dtype)) for key, m in models.items()}
    steps = {key: training_step(m, inputs, setting.dtype, setting.mode) for key, m in models.items()}
    times = interleaved({key: (lambda step=step: step) for key, step in steps.items()}, rounds)
    made = []
    for rate in rates:
        sliced, small = f"sliced {rate}", f"small {rate}"
        report = ecograph.explain(models[sliced])
        ratio = times[sliced] / times["dense"]
        ideal = report.after.total / report.before.total
        made.append(
            {
                **vars(setting), "whole": spec.whole, "pass": pass_name, "rate": rate,
                "groups": group_count(report),
                "layers": sum(bool(layer.rewritten_by) for layer in report.layers),
                "dense_ms": times["dense"], "sliced_ms": times[sliced], "small_ms": times[small],
                "ratio": ratio, "ideal": ideal, "times_ideal": ratio / ideal, "speedup": 1 / ratio,
                "small_ratio": times[small] / times["dense"],
                "small_flops_ratio": plain_flops(models[small], inputs) / report.before.total,
                "times_small": times[sliced] / times[small],
                "dense_peak_mb": memory["dense"] / 2**20,
                "peak_memory_ratio": memory[sliced] / memory["dense"],
                "small_peak_memory_ratio": memory[small] / memory["dense"],
                "dense_activations_mb": activations["dense"] / 2**20,
                "activation_ratio": activations[sliced] / activations["dense"],
                "small_activation_ratio": activations[small] / activations["dense"],
            }
        )  # fmt: skip
    return made


def group_count(report: Any) -> int | None:
    """Returns how many groups of channels are sliced, each with a start of its own; None for passes without groups."""
    return sum(bool(group.sliced_by) for group in report.groups) or None


def plain_flops(model: nn.Module, inputs: Tensor) -> int:
    """Returns the FLOPs of a training step of a model that no pass has touched."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ecograph.NoEffectWarning)
        untouched = ecograph.optimize(model, example_inputs=inputs, passes=[], copy=True)
    return ecograph.explain(untouched).before.total


def table(rows: Sequence[dict[str, Any]]) -> Table:
    title = "Training steps: sliced and small as a share of dense, beside the share of the FLOPs (ideal)"
    made = Table(
        title=title,
        caption=("share = sliced / dense;  x ideal = share / ideal;  x small = sliced / small: the method's own cost"),
    )
    for column in ("model", "dtype", "format", "mode"):
        made.add_column(column)
    for column in (
        "rate", "groups", "dense, ms", "sliced", "small", "share", "ideal", "x ideal", "x small", "speed-up",
        "activations", "small's", "peak", "small's",
    ):  # fmt: skip
        made.add_column(column, justify="right")
    for i, r in enumerate(rows):
        last = i + 1 == len(rows) or any(rows[i + 1][key] != r[key] for key in ("model", "dtype", "format", "mode"))
        made.add_row(
            r["model"], r["dtype"], r["format"], r["mode"], f"{r['rate']}",
            "-" if r["groups"] is None else f"{r['groups']}",
            *(f"{r[key]:.1f}" for key in ("dense_ms", "sliced_ms", "small_ms")),
            *(f"{r[key]:.2f}" for key in ("ratio", "ideal", "times_ideal", "times_small")),
            f"{r['speedup']:.2f}x",
            *(f"{r[key]:.2f}" for key in ("activation_ratio", "small_activation_ratio")),
            *(f"{r[key]:.2f}" for key in ("peak_memory_ratio", "small_peak_memory_ratio")),
            end_section=last,
        )  # fmt: skip
    return made


def summary(rows: Sequence[dict[str, Any]], rate: float = 0.5) -> Iterator[str]:
    """Yields a line on each network that could be trained as it is, and on each ideal that is not what it should be."""
    for r in rows:
        if r["pass"] == "sliceout" and abs(r["ideal"] - r["small_flops_ratio"]) > 0.01:
            yield (
                f"{r['model']} at rate {r['rate']}: explain counts {r['ideal']:.3f} of the FLOPs, the small network "
                f"has {r['small_flops_ratio']:.3f}: compare with the small network rather than with the ideal."
            )
        if r["whole"] and r["rate"] == rate:
            how = ", ".join((r["dtype"], r["format"], r["mode"]))
            yield (
                f"{r['model']} ({how}) at rate {rate}: {r['speedup']:.2f} times as fast as dense, "
                f"{r['activation_ratio']:.2f} of its activations, {r['peak_memory_ratio']:.2f} of its peak memory; the "
                f"small network {1 / r['small_ratio']:.2f} times."
            )


def main(arguments: Sequence[str] | None = None) -> None:
    command = parser(__doc__, only=(*NAMES, *EXTRA), rounds=10)
    command.add_argument("--quick", action="store_true", help="rate 0.5 only, and at most 5 rounds")
    command.add_argument("--full", action="store_true", help="also bfloat16, channels_last and torch.compile")
    command.add_argument("--pass", dest="pass_name", default="sliceout", choices=PASSES, help="the pass to time")
    args = command.parse_args(arguments)
    rates = (0.5,) if args.quick else RATES
    rounds = min(args.rounds, 5) if args.quick else args.rounds
    todo = settings([n for n in (*NAMES, *EXTRA) if n in (args.only or NAMES)], args.full)
    measured: list[dict[str, Any]] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for setting in todo:
            progress.update(task, description=" ".join(vars(setting).values()))
            measured += rows(setting, rates, rounds, args.pass_name)
            progress.advance(task)
            write_json(args.json, {"rounds": rounds, "models": measured})  # what is done is kept if it is stopped
    console = Console(width=160)
    console.print(table(measured))
    for line in summary(measured):
        console.print(line)


if __name__ == "__main__":
    main()
