"""Ctrl-C and a scheduler's SIGTERM: noticed at once, acted upon when the step is complete."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Notes that training shall stop, in place of stopping it in the middle of a step.

    A second Ctrl-C stops it at once, as it always does.

    Attributes:
        pending: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.pending: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Takes over the signals, where that is possible: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in _SIGNALS}

    def stop_listening(self) -> None:
        """Gives the signals back."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self.stop_listening()
            raise KeyboardInterrupt
        self.pending = signal.Signals(number)
