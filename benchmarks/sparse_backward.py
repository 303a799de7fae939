"""How much time a sparse backward saves: single layers and whole training steps, next to what is possible at most.

    python benchmarks/sparse_backward.py                 # everything: about 25 minutes on 2 CPU cores
    python benchmarks/sparse_backward.py --quick         # float32, eager: about 5 minutes
    python benchmarks/sparse_backward.py --only resnet18 --json out.json

Dense and sparse run in turn in one process, and every figure is a median. A step is zero_grad, forward, backward and an
SGD step with momentum. The limit beside a step is ``1 - drop * share``, where share is the profiler's time in the dense
backward of the layers that were made sparse, as a part of the dense step: what a sparse backward without any cost of
its own would reach. The drop is constant; training alternates it with dense steps by default, so it saves half of this.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from command import parser, write_json
from models import MODELS
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from step_share import backward_share, peak_memory
from steps import DEVICE, DTYPES, FORMATS, forward_and_backward, model_and_inputs, training_step
from timing import interleaved
from torch import Tensor

import ecograph
from ecograph.passes.sparse_backward import SparseBackward, sparse_conv, sparse_linear

DROPS = (0.5, 0.8)
NAMES = ("resnet18", "resnet50", "convnext", "vit-s", "gpt2")


@dataclass(frozen=True)
class ConvLayer:
    """A convolution to time: (N, C_in, H, W) to C_out channels."""

    name: str
    batch: int
    channels_in: int
    channels_out: int
    size: int
    kernel: int = 3
    stride: int = 1


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer to time."""

    name: str
    rows: int
    features_in: int
    features_out: int


CONVS = (
    ConvLayer("conv3x3 64 @32", 32, 64, 64, 32),
    ConvLayer("conv3x3 128 @16", 32, 128, 128, 16),
    ConvLayer("conv3x3 256 @8", 32, 256, 256, 8),
    ConvLayer("conv3x3 512 @4", 32, 512, 512, 4),
    ConvLayer("conv3x3 128 @28", 8, 128, 128, 28),
    ConvLayer("conv1x1 256-64 @32", 16, 256, 64, 32, kernel=1),
    ConvLayer("conv1x1 64-256 @32", 16, 64, 256, 32, kernel=1),
)
LINEARS = (
    LinearLayer("linear 2048x512x2048", 2048, 512, 2048),
    LinearLayer("linear 2048x2048x512", 2048, 2048, 512),
    LinearLayer("linear 1576x384x1536 (ViT-S)", 1576, 384, 1536),
    LinearLayer("linear 1024x768x2304 (GPT-2)", 1024, 768, 2304),
)


def layer_rows(rounds: int, dtypes: list[str], compiled: bool, advance: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields forward and backward times of single layers, dense and sparse."""
    for dtype in dtypes:
        for layer in (*CONVS, *LINEARS):
            for memory_format in FORMATS if isinstance(layer, ConvLayer) else ("default",):
                for mode in ("eager", "compiled") if compiled else ("eager",):
                    yield _layer_row(layer, dtype, memory_format, mode, rounds)
                    advance()


def _layer_row(
    layer: ConvLayer | LinearLayer, dtype: str, memory_format: str, mode: str, rounds: int
) -> dict[str, Any]:
    options = {"dtype": DTYPES[dtype], "device": DEVICE}
    torch.manual_seed(0)
    if isinstance(layer, ConvLayer):
        fmt = FORMATS[memory_format]
        input = torch.randn(layer.batch, layer.channels_in, layer.size, layer.size, **options)
        weight = torch.randn(layer.channels_out, layer.channels_in, layer.kernel, layer.kernel, **options) / 30
        input, weight = (t.contiguous(memory_format=fmt).requires_grad_() for t in (input, weight))
        pad, channels = layer.kernel // 2, layer.channels_out
        geometry = {"stride": (layer.stride,) * 2, "padding": (pad, pad), "dilation": (1, 1)}
        dense: Callable[[], Tensor] = lambda: F.conv2d(input, weight, None, layer.stride, pad)  # noqa: E731
        sparse: Callable[[int], Tensor] = lambda keep: sparse_conv(input, weight, None, **geometry, keep=keep)  # noqa: E731
    else:
        input = torch.randn(layer.rows, layer.features_in, **options).requires_grad_()
        weight = (torch.randn(layer.features_out, layer.features_in, **options) / 30).requires_grad_()
        bias = torch.zeros(layer.features_out, **options).requires_grad_()
        channels = layer.features_out
        dense = lambda: F.linear(input, weight, bias)  # noqa: E731
        sparse = lambda keep: sparse_linear(input, weight, bias, keep=keep)  # noqa: E731
    grad = torch.randn_like(dense())

    forwards: dict[str, Callable[[], Tensor]] = {"dense": dense}
    for drop in DROPS:
        keep = max(int((1 - drop) * channels + 1e-6), 1)
        forwards[f"sparse {drop}"] = lambda keep=keep: sparse(keep)
    if mode == "compiled":
        forwards = {name: torch.compile(forward, fullgraph=True) for name, forward in forwards.items()}

    def backward(forward: Callable[[], Tensor]) -> Callable[[], Callable[[], Any]]:
        def prepare() -> Callable[[], Any]:
            input.grad = weight.grad = None
            output = forward()
            return lambda: output.backward(grad)

        return prepare

    times = interleaved({name: backward(forward) for name, forward in forwards.items()}, rounds)
    forward_time = interleaved({"forward": lambda: dense}, rounds)["forward"]
    return {
        "layer": layer.name, "dtype": dtype, "format": memory_format, "mode": mode,
        "dense_forward_ms": forward_time, "dense_backward_ms": times["dense"],
        **{f"sparse_backward_{d}_ms": times[f"sparse {d}"] for d in DROPS},
        **{f"ratio_{d}": times[f"sparse {d}"] / times["dense"] for d in DROPS},
    }  # fmt: skip


def model_rows(
    names: list[str], rounds: int, dtypes: list[str], modes: list[str], when: str, advance: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Yields whole training steps of models, dense and sparse, with their limits."""
    for name in names:
        for dtype in dtypes:
            for memory_format in FORMATS if MODELS[name].images else ("default",):
                for mode in modes:
                    yield _model_row(name, dtype, memory_format, mode, rounds, when)
                    advance()


def _model_row(name: str, dtype: str, memory_format: str, mode: str, rounds: int, when: str) -> dict[str, Any]:
    torch._dynamo.reset()
    dense, inputs = model_and_inputs(MODELS[name], memory_format)
    models = {"dense": dense}
    for drop in DROPS:
        passes = [SparseBackward(drop, schedule="constant", when=when)]
        models[f"sparse {drop}"] = ecograph.optimize(copy.deepcopy(dense), example_inputs=inputs, passes=passes)
    sparse_layers = {
        f"sparse {drop}": [r.name for r in ecograph.explain(models[f"sparse {drop}"]).layers if r.rewritten_by]
        for drop in DROPS
    }
    steps = {key: training_step(model, inputs, dtype, mode) for key, model in models.items()}
    eager_step = training_step(dense, inputs, dtype, "eager")
    shares = {key: backward_share(dense, layers, eager_step) for key, layers in sparse_layers.items()}
    memory = {key: peak_memory(training_step(model, inputs, dtype, "eager")) for key, model in models.items()}
    times = interleaved({key: (lambda step=step: step) for key, step in steps.items()}, rounds)
    parts = interleaved(forward_and_backward(dense, inputs, dtype), max(rounds // 2, 3))
    row: dict[str, Any] = {
        "model": name, "dtype": dtype, "format": memory_format, "mode": mode,
        "dense_forward_ms": parts["forward"], "dense_backward_ms": parts["backward"], "dense_step_ms": times["dense"],
        "dense_peak_mb": memory["dense"] / 2**20,
    }  # fmt: skip
    for drop in DROPS:
        key = f"sparse {drop}"
        limit = 1 - drop * shares[key]
        ratio = times[key] / times["dense"]
        row |= {
            f"layers_{drop}": len(sparse_layers[key]),
            f"share_{drop}": shares[key],
            f"step_{drop}_ms": times[key],
            f"ratio_{drop}": ratio,
            f"limit_{drop}": limit,
            f"times_limit_{drop}": ratio / limit,
            f"peak_memory_ratio_{drop}": memory[key] / memory["dense"],
        }
    return row


def layer_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Backward of single layers: milliseconds, and sparse as a share of dense")
    for column in ("layer", "dtype", "format", "mode"):
        table.add_column(column)
    for column in ("forward", "backward", *(f"drop {d}" for d in DROPS)):
        table.add_column(column, justify="right")
    for r in rows:
        table.add_row(
            r["layer"], r["dtype"], r["format"], r["mode"],
            f"{r['dense_forward_ms']:.2f}", f"{r['dense_backward_ms']:.2f}",
            *(f"{r[f'sparse_backward_{d}_ms']:.2f}  {r[f'ratio_{d}']:.2f}" for d in DROPS),
        )  # fmt: skip
    return table


def model_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="Whole training steps: sparse as a share of dense, the limit, and how many times the limit")
    for column in ("model", "dtype", "format", "mode"):
        table.add_column(column)
    for column in ("dense step", *(f"drop {d}: share, limit, times" for d in DROPS), "peak memory"):
        table.add_column(column, justify="right")
    for r in rows:
        table.add_row(
            r["model"], r["dtype"], r["format"], r["mode"], f"{r['dense_step_ms']:.0f} ms",
            *(f"{r[f'ratio_{d}']:.2f}  {r[f'limit_{d}']:.2f}  {r[f'times_limit_{d}']:.2f}x" for d in DROPS),
            f"{r[f'peak_memory_ratio_{DROPS[-1]}']:.2f}",
        )  # fmt: skip
    return table


def main() -> None:
    command = parser(__doc__, only=("layers", *NAMES), rounds=12)
    command.add_argument("--quick", action="store_true", help="float32 and eager only")
    command.add_argument("--when", default="pays", choices=("pays", "always"), help="which layers are made sparse")
    args = command.parse_args()
    dtypes = ["float32"] if args.quick else list(DTYPES)
    modes = ["eager"] if args.quick else ["eager", "compiled"]
    names = [n for n in NAMES if args.only is None or n in args.only]
    layers, models = [], []
    with Progress(transient=True) as progress:
        task = progress.add_task("measuring", total=None)
        advance = lambda: progress.advance(task)  # noqa: E731
        if args.only is None or "layers" in args.only:
            layers = list(layer_rows(args.rounds, dtypes, not args.quick, advance))
        models = list(model_rows(names, args.rounds, dtypes, modes, args.when, advance))
    console = Console(width=150)
    if layers:
        console.print(layer_table(layers))
    if models:
        console.print(model_table(models))
    write_json(args.json, {"rounds": args.rounds, "when": args.when, "layers": layers, "models": models})


if __name__ == "__main__":
    main()
