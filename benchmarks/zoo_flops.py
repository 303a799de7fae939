"""What the cost model counts and what real steps compute: FLOPs of every model that capture is tested with.

The reference is ``torch.utils.flop_counter.FlopCounterMode`` around a step that runs eagerly, with its gaps closed: see
``tests/support/zoo/counting.py``, which uses nothing of ecograph.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from ecograph.cost.steps import record_step
from ecograph.tools.torchvision_ops import declare_missing

declare_missing()
sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from zoo.counting import reference  # noqa: E402
from zoo.entry import Entry  # noqa: E402
from zoo.language import TRANSFORMERS  # noqa: E402
from zoo.vision import TIMM, TORCHVISION  # noqa: E402

ZOO: tuple[Entry, ...] = (*TORCHVISION, *TIMM, *TRANSFORMERS)


def counted(index: int) -> dict[str, Any]:
    """Returns a row: FLOPs of forward and backward, counted in an eager step, and as the cost model says.

    Args:
        index: of the model in ``ZOO``; entries cannot be sent to a process.
    """
    entry = ZOO[index]
    torch.manual_seed(0)
    model, inputs = entry.build(), entry.inputs()
    eager = reference(model, inputs, real=entry.real)
    step = record_step(model, inputs)
    forward = sum(op.flops * op.count for op in step.ops if op.phase == "forward")
    return {
        "model": entry.name,
        "counted": [eager.forward, eager.backward],
        "predicted": [forward, step.flops - forward],
        "uncounted": sorted(step.uncounted),
    }


def exact(row: dict[str, Any]) -> bool:
    """Whether nothing is missing, and nothing too much."""
    return bool(row["counted"] == row["predicted"] and not row["uncounted"])
