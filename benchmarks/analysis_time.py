"""How long the cost model takes to analyse a model, and that this grows with the model and no faster.

A training step is recorded, with AdamW, and priced on a device known from its datasheet: GPTs of ten depths on the
meta device; ResNet-50, which is real; and a Llama of 70 billion parameters, on meta again. Each runs in a process of
its own, which imports PyTorch, analyses a small model first, and then takes its time and its memory.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecograph.cost.devices import Roofline, find_device
from ecograph.cost.steps import record_step

#: GPTs of growing depth, and the models that are to be analysed within a time.
DEPTHS = tuple(f"gpt-{depth}" for depth in (2, 4, 8, 16, 24, 32, 48, 64, 80, 96))
OTHERS = ("resnet50", "llama-70b")
REPEATS = 3


def build(name: str) -> tuple[nn.Module, Any]:
    """Returns a model and what it is called with."""
    import transformers
    from real_models import REAL

    tokens = torch.zeros(1, 128, dtype=torch.int64)
    if name == "resnet50":
        return REAL[name].build(), torch.randn(8, 3, 224, 224)
    with torch.device("meta"):
        model: nn.Module
        if name == "llama-70b":
            model = transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=32000, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
                    num_attention_heads=64, num_key_value_heads=8,
                )
            )  # fmt: skip
        else:
            depth = int(name.removeprefix("gpt-"))
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=depth, n_embd=256, n_head=4))
    return model, {"input_ids": tokens, "labels": tokens}


def analyse(name: str) -> dict[str, Any]:
    """Returns the seconds, operations and memory of analysing a model."""
    prices = Roofline(find_device("h100"))

    def once(model: nn.Module, inputs: Any) -> tuple[float, float, int]:
        began, worked = time.perf_counter(), time.process_time()
        step = record_step(model, inputs, optimizer=torch.optim.AdamW)
        prices.total(step.ops)
        return time.perf_counter() - began, time.process_time() - worked, len(step.ops)

    once(nn.Linear(4, 4), torch.ones(2, 4))
    model, inputs = build(name)
    before = _resident()
    found = [once(model, inputs) for _ in range(REPEATS)]
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "operations": found[0][2],
        "seconds": statistics.median(each[0] for each in found),
        "cpu_seconds": statistics.median(each[1] for each in found),
        "bytes": _resident(),
        "bytes_before": before,
    }


def _resident() -> int:
    """Returns the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slope(rows: Sequence[dict[str, Any]]) -> float:
    """Returns the exponent with which the time grows with the operations, by least squares: 1 is linear."""
    import numpy as np

    return float(np.polyfit(np.log([r["operations"] for r in rows]), np.log([r["cpu_seconds"] for r in rows]), 1)[0])


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the time against the operations of a step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    operations = [row["operations"] for row in rows]
    axes.plot(operations, [row["cpu_seconds"] for row in rows], "o-", label="measured, CPU time")
    last = rows[-1]
    axes.plot([0, last["operations"]], [0, last["cpu_seconds"]], ":", color="gray", label="through the origin")
    axes.set(xlabel="operations in a training step", ylabel="seconds to analyse it", xlim=(0, None), ylim=(0, None))
    axes.set_title("GPTs of 2 to 96 layers, on the meta device")
    axes.legend()
    figure.savefig(path, dpi=120)
