"""What optimizers run: a few operations on one parameter after another, none of which has been touched for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.calibration.workloads.workload import Workload, noise

aten = torch.ops.aten

#: Parameters that a fused optimizer is given, if they are not larger than that.
SEVERAL, MANY = 8, 2**17
_STEPS_TAKEN = [torch.ones(()) for _ in range(SEVERAL)]

#: Name, the call, how many tensors it takes, and which of them the operation before has just written.
_STEPS: tuple[tuple[str, Callable[..., Any], int, int | None], ...] = (
    ("mul_", lambda x: aten.mul_(x, 0.999), 1, None),
    ("lerp_", lambda x, g: aten.lerp_(x, g, 0.1), 2, None),
    ("addcmul_", lambda x, g, h: aten.addcmul_(x, g, h, value=1e-3), 3, 0),
    ("sqrt", aten.sqrt, 1, 0),
    ("div", lambda x: aten.div(x, 0.5), 1, 0),
    ("add_ number", lambda x: aten.add_(x, 1e-8), 1, 0),
    ("addcdiv_", lambda x, m, d: aten.addcdiv_(x, m, d, value=-1e-3), 3, 2),
    ("add_ gradient", lambda x, g: aten.add_(x, g), 2, 0),
    ("add_ momentum", lambda x, m: aten.add_(x, m, alpha=-1e-3), 2, 1),
    ("add", lambda g, x: aten.add(g, x, alpha=1e-3), 2, None),
)


def in_optimizer(elements: int, dtype: torch.dtype) -> Iterator[Workload]:
    """Yields all that optimizers run, for a parameter of so many elements."""

    def state(count: int) -> tuple[Tensor, ...]:
        # Above 0, as averages of squares are: the root of a negative number takes twenty times as long.
        return tuple(noise(elements, dtype=dtype).abs_().add_(1.0) for _ in range(count))

    for name, run, count, warm in _STEPS:
        yield Workload(f"{name} of {elements}", run, partial(state, count), "optimizer", warm=warm)
    # Fused, they go through all parameters in one call.
    several = 1 if elements > MANY else SEVERAL
    yield Workload(f"AdamW of {elements}", _fused_adamw, partial(state, 4 * several), "optimizer", warm=None)
    yield Workload(f"SGD of {elements}", _fused_sgd, partial(state, 3 * several), "optimizer", warm=None)


def _fused_adamw(*state: Tensor) -> Any:
    count = len(state) // 4
    p, g, m, v = (state[at * count : (at + 1) * count] for at in range(4))
    return aten._fused_adamw_(
        p, g, m, v, [], _STEPS_TAKEN[:count],
        lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip


def _fused_sgd(*state: Tensor) -> Any:
    count = len(state) // 3
    p, g, m = (state[at * count : (at + 1) * count] for at in range(3))
    return aten._fused_sgd_(
        p, g, m, weight_decay=0.0, momentum=0.9, lr=1e-3, dampening=0.0, nesterov=False, maximize=False,
        is_first_step=False,
    )  # fmt: skip
