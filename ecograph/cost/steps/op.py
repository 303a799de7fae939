"""One operation of a training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: When in a step something runs. A forward that is run again in the backward is "recomputed".
Phase = Literal["forward", "recomputed", "backward", "optimizer"]

PHASES: tuple[Phase, ...] = ("forward", "recomputed", "backward", "optimizer")

#: Which gradient a product of the backward computes, or "".
Grad = Literal["", "grad_input", "grad_weight"]


@dataclass(frozen=True, slots=True)
class Op:
    """An operation that torch carries out: one kernel, or a few that belong together.

    Attributes:
        name: torch's, such as ``"aten.convolution"``.
        kind: what kind of work it is; see ``kinds.py``. ``"uncounted"`` where that is not known.
        phase: when it runs.
        layer: path of the module that it is done for; "" for the model itself, the loss and the optimizer.
        grad: which gradient it computes, for products of the backward.
        flops: floating-point operations, a multiply-add being two, as ``FlopCounterMode`` counts: products only.
        read: bytes of its operands.
        written: bytes of its results.
        sizes: what decides how fast a product runs: ``(batch, m, n, k)`` of a matrix product, or ``(images, groups,
            channels in and out of a group, kernel elements, positions in and out)`` of a convolution.
        dtype: of what it computes with, such as ``"float32"``.
        device: type of it.
        channels_last: whether it runs on images in this format.
        strided: whether a copy puts elements in another order in memory.
        fresh: whether it writes into memory that it allocates.
        swept: share of the processor's caches that the operations before it have filled with their own: what is run
            between them, code as much as data, has to come from further away then.
        count: how often it runs.
        parts: tensors that it goes through, one after the other.
    """

    name: str
    kind: str
    phase: Phase
    layer: str = ""
    grad: Grad = ""
    flops: int = 0
    read: int = 0
    written: int = 0
    sizes: tuple[int, ...] = ()
    dtype: str = "float32"
    device: str = "cpu"
    channels_last: bool = False
    strided: bool = False
    fresh: bool = True
    swept: float = 0.0
    count: int = 1
    parts: int = 1

    @property
    def bytes(self) -> int:
        """Bytes moved, if everything comes from memory once and goes there once."""
        return self.read + self.written
