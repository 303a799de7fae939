"""The sizes of a product, on which it depends how fast it runs."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def matmul_sizes(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """Returns ``(batch, m, n, k)`` of a matrix product ``(m, k) @ (k, n)``, or of a batch of them."""
    operands = [each for each in args if isinstance(each, Tensor)]
    name = func._schema.name.removeprefix("aten::")
    if name in ("addmm", "baddbmm", "addbmm", "addmv", "_addmm_activation", "addr"):
        operands = operands[1:]
    first, second = operands[:2]
    if name == "linear":
        return 1, math.prod(first.shape[:-1]), second.shape[0], first.shape[-1]
    rows = first.shape[-2] if first.dim() > 1 else 1
    columns = second.shape[-1] if second.dim() > 1 else 1
    batch = math.prod(first.shape[:-2]) if first.dim() > 2 else 1
    return batch, rows, columns, first.shape[-1]


def conv_sizes(input: Tensor, weight: Tensor, output: Tensor, *, groups: int) -> tuple[int, ...]:
    """Returns ``(images, groups, channels in and out of a group, kernel elements, positions in, positions out)``."""
    dims = weight.dim() - 2
    batched = input.dim() == weight.dim()
    images = input.shape[0] if batched else 1
    channel = 1 if batched else 0
    return (
        images,
        groups,
        input.shape[channel] // groups,
        output.shape[channel] // groups,
        math.prod(weight.shape[2:]),
        math.prod(input.shape[-dims:]) if dims else 1,
        math.prod(output.shape[-dims:]) if dims else 1,
    )
