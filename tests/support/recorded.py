"""Operations of a call, as the recorder of steps writes them down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ecograph.cost.steps.kinds import VIEW
from ecograph.cost.steps.op import Op
from ecograph.cost.steps.owners import Owners
from ecograph.cost.steps.recorder import Recorder


def recorded(function: Callable[..., Any], *operands: Tensor) -> list[Op]:
    """Returns the operations that a call runs, views left out."""
    recorder = Recorder(Owners(nn.Module()), [], list(operands))
    with recorder:
        result = function(*operands)
    del result
    return [op for op in recorder.ops if op.kind != VIEW]
