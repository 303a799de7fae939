"""Which slice each step draws: a hash of the seed, the step and the group's name.

Not a random generator: the same seed and step must draw the same on every rank, after a restart, and in a compiled
forward, and one group's draws must not depend on which other groups there are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ecograph.schedule import Rate

if TYPE_CHECKING:
    from ecograph.passes.sliceout.given import Given
    from ecograph.passes.sliceout.update import SliceUpdate

#: Draws are numbers below ``2 ** BITS``. A product of two stays below 2 ** 62, so int64 never overflows.
BITS = 31
_MASK = (1 << BITS) - 1

_Number = TypeVar("_Number", int, Tensor)


def scramble(x: _Number) -> _Number:
    """Returns a one-to-one function of 31-bit numbers whose every output bit depends on every input bit."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x045D9F3B) & _MASK
    return x ^ (x >> 16)


def group_key(seed: int, name: str) -> int:
    """Returns what tells a group's draws from those of other groups and seeds."""
    return scramble((zlib.crc32(name.encode()) ^ scramble(zlib.crc32(str(seed).encode()) & _MASK)) & _MASK)


def draw(step: Tensor, keys: Tensor) -> Tensor:
    """Returns one 31-bit number for each of the ``keys``, int64, at a step (0-d, int64)."""
    return scramble(scramble(step & _MASK) ^ keys)


class SliceRate(Rate):
    """The share of units that SliceOut drops now, and what each of its groups has drawn.

    Step and draws are tensors that change in place, so that compiled code need not be compiled again for each step.

    Attributes:
        seed: of all draws.
        step: 0-d, int64, on the CPU: training forwards so far or, with a Scheduler, its steps.
        draws: ``(groups,)``, int64, on the CPU: a 31-bit number for each group.
        update: what restricts optimizer steps to the slice, if anything does.
        waits: whether the draws stay until an optimizer has stepped.
        known: whether the draws can be read; a copy without data takes the first slice.
        given: while the model is exported, what knows the starts in place of the draws.
    """

    def __init__(self, peak: float, schedule: str, seed: int = 0) -> None:
        super().__init__(peak, schedule)
        self.seed = seed
        with torch.inference_mode(False):  # they change in place, wherever they were made
            self.step = torch.zeros((), dtype=torch.int64, device="cpu")
            self.draws = torch.zeros(0, dtype=torch.int64, device="cpu")
        self.update: SliceUpdate | None = None
        self.waits = False
        self.known = True
        self.given: Given | None = None
        self._keys = torch.zeros(0, dtype=torch.int64, device="cpu")
        self._names: list[str] = []
        self._numbers: tuple[Tensor, int, list[int]] | None = None

    def register(self, name: str) -> int:
        """Returns the index among the draws of the group called ``name``, which is new or known."""
        if name not in self._names:
            self._names.append(name)
            keys = [group_key(self.seed, known) for known in self._names]
            with torch.inference_mode(False):
                self._keys = torch.tensor(keys, dtype=torch.int64, device="cpu")
                self.draws = draw(self.step, self._keys)
        return self._names.index(name)

    @property
    def numbers(self) -> list[int]:
        """The draws as Python's numbers; zeros where they cannot be read. Not for compiled code."""
        draws, version = self.draws, self.draws._version
        found = self._numbers
        if found is None or found[0] is not draws or found[1] != version:
            found = self._numbers = (draws, version, draws.tolist() if self.known else [0] * len(draws))
        return found[2]

    def tick(self) -> None:
        """Moves on by one training forward, and draws."""
        if self.waits:
            return
        super().tick()
        if torch.compiler.is_compiling():
            self._advance()
        else:
            with torch._C._DisableFuncTorch():  # ``torch.func.grad`` forbids to change what it does not know
                self._advance()
        self.waits = self.update is not None

    def _advance(self) -> None:
        self.step.add_(1)
        self.draws.copy_(draw(self.step, self._keys))

    def move_to(self, step: int) -> None:
        """Puts the draws of a step in force."""
        self.step.fill_(step)
        self.draws.copy_(draw(self.step, self._keys))

    def __getstate__(self) -> dict[str, Any]:
        """Returns all but the numbers that were read: a copy's draws count their changes anew."""
        return {**vars(self), "_numbers": None}

    def state_dict(self) -> dict[str, Any]:
        """Returns where it is; the draws follow from the step."""
        return {**super().state_dict(), "step": int(self.step), "waits": self.waits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken, with the same draws."""
        super().load_state_dict(state)
        self.move_to(state["step"])
        self.waits = state["waits"]

    def without_data(self) -> None:
        """Takes the first slice from now on."""
        self.known = False
        self._numbers = None

    def close(self) -> None:
        """Lets optimizers step on whole parameters again."""
        self.update = None
        self.waits = False
