"""Counting the Python functions that a step calls between its operations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any

#: What of torch is called in a real step too. The rest, such as all that computes without data, is not.
_OF_TORCH = ("torch.nn.", "torch.autograd.function", "torch.functional")
#: Who watches is not part of the step: this package, and the function in which torch calls a module that has hooks.
_WATCHING = "ecograph.cost.steps."
_FOR_HOOKS = "inner"


@cache
def of_a_step(module: str) -> bool:
    """Whether the functions of a Python module count: those of models, of passes, and of torch's own modules.

    Python's standard library does not. Much of what calls it is what watches, and its share is in the time of a call.
    """
    if module.startswith("torch."):
        return module.startswith(_OF_TORCH)
    return module.partition(".")[0] not in sys.stdlib_module_names and not module.startswith(_WATCHING)


class Frames:
    """Counts calls of Python functions in the thread that starts it, between :meth:`start` and :meth:`stop`.

    Where a profiler is at work already it is left alone, and nothing is counted.

    Args:
        of: whether the functions of a Python module count, from its name.

    Attributes:
        count: of calls so far.
    """

    def __init__(self, of: Callable[[str], bool] = of_a_step) -> None:
        self.count = 0
        self._of = of
        self._profiled = False

    def start(self) -> None:
        """Counts from now on."""
        self._profiled = sys.getprofile() is not None
        if not self._profiled:
            sys.setprofile(self._see)

    def stop(self) -> None:
        """Does not count from now on."""
        if not self._profiled:
            sys.setprofile(None)

    def take(self) -> int:
        """Returns the count, and begins anew."""
        count, self.count = self.count, 0
        return count

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name != _FOR_HOOKS and self._of(frame.f_globals.get("__name__", "")):
            self.count += 1
