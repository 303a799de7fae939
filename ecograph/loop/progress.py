"""A progress bar for runs that last, on a terminal, which does not slow them down."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

from ecograph.loop.lengths import length


class Progress:
    """Shows epoch, batch, loss and time left while the loop runs, on stderr.

    It appears after two seconds, so that short runs stay quiet, and only on a terminal or in a notebook. It
    reads the loss, for which the device must finish its work, twice a second at most; never where nothing is
    shown.
    """

    DELAY = 2.0
    INTERVAL = 0.5

    def __init__(
        self, epochs: int, loader: Iterable[Any], *, shown: bool = True, console: Console | None = None
    ) -> None:
        """Prepare a bar for `epochs` passes over `loader`, which need not have a length; or none, unless `shown`."""
        self._console = console or Console(stderr=True)
        self._shown = shown and (self._console.is_terminal or self._console.is_jupyter)
        self._epochs = epochs
        self._batches = length(loader)
        self._epoch = 0
        self._batch = 0
        self._skipped = False
        self._loss: Tensor | float = 0.0
        self._started = self._drawn = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        """Start the clock."""
        self._started = self._drawn = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal in order, whatever happened."""
        if self._bar is None:
            return
        if kind is None:
            self._draw(time.monotonic())
        self._bar.stop()

    def update(self, epoch: int, loss: Tensor | float) -> None:
        """Count one batch of `epoch`, which had the loss `loss`."""
        if epoch != self._epoch:
            self._begin(epoch)
        self._batch += 1
        if not self._shown:
            return
        self._loss = loss.detach() if isinstance(loss, Tensor) else loss
        now = time.monotonic()
        if now - self._started >= self.DELAY and now - self._drawn >= self.INTERVAL:
            self._draw(now)

    def skip(self, epoch: int) -> None:
        """Count an epoch as done that was not trained."""
        self._begin(epoch)
        self._batch = self._batches or 0
        self._skipped = True
        now = time.monotonic()
        if self._shown and now - self._started >= self.DELAY:
            self._draw(now)

    def _begin(self, epoch: int) -> None:
        self._batches = self._batches or self._batch
        self._epoch, self._batch, self._skipped = epoch, 0, False

    def _draw(self, now: float) -> None:
        if self._bar is None:
            columns = "epoch {task.fields[epoch]}", "{task.fields[batch]}", "loss {task.fields[loss]}"
            texts = [TextColumn(text) for text in columns]
            left = TextColumn("{task.fields[left]}")
            self._bar = Bar(
                texts[0], BarColumn(), *texts[1:], left, console=self._console, auto_refresh=False
            )
            self._bar.add_task("", epoch="", batch="", loss="", left="")
            self._bar.start()
        done = self._epoch * (self._batches or 0) + self._batch
        total = self._epochs * self._batches if self._batches else None
        batch = f"batch {self._batch}/{self._batches}" if self._batches else f"batch {self._batch}"
        self._bar.update(
            self._bar.task_ids[0],
            completed=done,
            total=total,
            epoch=f"{self._epoch + 1}/{self._epochs}",
            batch="skipped" if self._skipped else batch,
            loss=f"{float(self._loss):.4g}",
            left=_time_left(now - self._started, done, total),
        )
        self._bar.refresh()
        self._drawn = now


def _time_left(elapsed: float, done: int, total: int | None) -> str:
    if total is None:
        return f"{_clock(elapsed)} so far"
    if done >= total:
        return f"{_clock(elapsed)} in all"
    return f"{_clock(elapsed / max(done, 1) * (total - done))} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
