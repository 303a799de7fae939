"""How many Python functions are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ecograph.cost.steps.frames import Frames, of_a_step


def calls(run: Callable[[], Any], of: Callable[[str], bool] = of_a_step) -> int:
    """Returns how many Python functions are called, ``run`` itself among them where it counts."""
    frames = Frames(of)
    frames.start()
    run()
    frames.stop()
    return frames.count
