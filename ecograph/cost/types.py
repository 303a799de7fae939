"""What every FLOP formula gives back, and the question every one asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ecograph.capture.graph import example


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one product, or of many added up.

    Attributes:
        forward: of the forward.
        grad_input: of the gradient with respect to the activation (for attention: to all operands).
        grad_weight: of the gradient with respect to the weight.
        recomputed: of the forward's second run in the backward, under activation checkpointing.
    """

    forward: int = 0
    grad_input: int = 0
    grad_weight: int = 0
    recomputed: int = 0

    @property
    def backward(self) -> int:
        """All that the backward computes."""
        return self.grad_input + self.grad_weight + self.recomputed

    @property
    def total(self) -> int:
        """Of the whole step."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        """Adds field by field."""
        return Flops(
            self.forward + other.forward,
            self.grad_input + other.grad_input,
            self.grad_weight + other.grad_weight,
            self.recomputed + other.recomputed,
        )


def needs_grad(*nodes: Any) -> tuple[bool, ...]:
    """Returns for each node whether its gradient is computed; yes where the graph does not know."""
    return tuple(True if (value := example(node)) is None else value.requires_grad for node in nodes)
