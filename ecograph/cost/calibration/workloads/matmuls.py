"""Matrix products: of linear layers, and of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ecograph.cost.calibration.workloads.workload import Workload, noise

aten = torch.ops.aten

#: Widths of layers, and how many rows a batch has for them.
_WIDTHS = (64, 256, 1024, 4096)
_ROWS = (1, 8, 128, 512, 2048)
#: Largest matrix product that is timed, in FLOPs.
_MOST = 2.2e9


def matmuls(dtype: torch.dtype) -> Iterator[Workload]:
    """Yields the three products of linear layers."""
    for rows in _ROWS:
        for inputs in _WIDTHS:
            for outputs in _WIDTHS:
                if 2 * rows * inputs * outputs > _MOST or max(inputs, outputs) > 4 * min(inputs, outputs):
                    continue
                yield from linear(rows, inputs, outputs, dtype)


def linear(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> Iterator[Workload]:
    """Yields the three products of a linear layer."""

    def make() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            noise(rows, inputs, dtype=dtype),
            noise(outputs, inputs, dtype=dtype),
            noise(rows, outputs, dtype=dtype),
            noise(outputs, dtype=dtype),
        )

    label = f"linear {rows}x{inputs}x{outputs}"
    yield Workload(label, lambda x, w, g, b: aten.addmm(b, x, w.t()), make, "forward")
    yield Workload(label, lambda x, w, g, b: aten.mm(g, w), make, "backward", "grad_input", warm=2)
    yield Workload(label, lambda x, w, g, b: aten.mm(g.t(), x), make, "backward", "grad_weight", warm=2)


def batched_matmuls(dtype: torch.dtype) -> Iterator[Workload]:
    """Yields the products of attention that is written out, and attention in one call."""
    for batch, length, width in [
        (12, 64, 64),
        (12, 256, 64),
        (96, 64, 64),
        (96, 256, 64),
        (384, 64, 32),
        (16, 512, 64),
    ]:

        def make(shape: tuple[int, int, int] = (batch, length, width)) -> tuple[Tensor, Tensor, Tensor]:
            batch, length, width = shape
            return (
                noise(batch, length, width, dtype=dtype),
                noise(batch, length, width, dtype=dtype),
                noise(batch, length, length, dtype=dtype),
            )

        label = f"bmm {batch}x{length}x{width}"
        yield Workload(label, lambda q, k, s: aten.bmm(q, k.transpose(1, 2)), make, "forward")
        yield Workload(label, lambda q, k, s: aten.bmm(s, k), make, "forward")
        # No operand is a weight, so a step has both gradients as grad_input.
        yield Workload(label, lambda q, k, s: aten.bmm(s.transpose(1, 2), q), make, "backward", "grad_input")
        yield Workload(label, lambda q, k, s: aten.bmm(q, k.transpose(1, 2)), make, "backward", "grad_input")

        def make4(shape: tuple[int, int, int] = (batch, length, width)) -> tuple[Tensor, ...]:
            batch, length, width = shape
            heads = 12 if batch % 12 == 0 else 8
            return tuple(noise(batch // heads, heads, length, width, dtype=dtype) for _ in range(3))

        def make_backward(make4: Any = make4) -> tuple[Any, ...]:
            q, k, v = make4()
            out, scale = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
            return torch.randn_like(out), q, k, v, out, scale

        label = f"attention {batch}x{length}x{width}"
        yield Workload(label, aten._scaled_dot_product_flash_attention_for_cpu, make4, "forward")
        yield Workload(
            label,
            lambda g, q, k, v, out, scale: aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g, q, k, v, out, scale, 0.0, False
            ),
            make_backward,
            "backward",
        )
