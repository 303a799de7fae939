"""How many channels a drop rate keeps, and what a layer costs then: arithmetic, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from ecograph.cost.flops import Flops


def kept_channels(channels: int, drop: float, align: int = 1) -> int:
    """Returns how many of ``channels`` a drop rate keeps: ``max(int((1 - drop) * channels), 1)``, rounded up to align.

    Args:
        channels: output channels, of one group.
        drop: from 0 to below 1.
        align: the result is a multiple of it, or all channels.
    """
    keep = max(int((1 - drop) * channels + 1e-6), 1)  # 1 - 0.8 is a hair less than 0.2
    return min(-(-keep // align) * align, channels)


def sparse_cost(plain: Flops, channels: int, rate: float, grads: tuple[bool, bool], align: int) -> Flops:
    """Returns the FLOPs of a layer at a drop rate: its sparse gradients shrink to the kept channels.

    Args:
        plain: of the plain layer.
        channels: output channels, of one group.
        rate: the drop rate.
        grads: whether grad_input and grad_weight are sparse.
        align: as in the pass.
    """
    keep = kept_channels(channels, rate, align)
    return replace(
        plain,
        grad_input=plain.grad_input * keep // channels if grads[0] else plain.grad_input,
        grad_weight=plain.grad_weight * keep // channels if grads[1] else plain.grad_weight,
    )
