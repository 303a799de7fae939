import io
from collections.abc import Iterator

import pytest
import torch
from rich.console import Console

from ecograph.loop.progress import Progress, _clock


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Loss(float):
    """A loss that says when it is read."""

    reads = 0

    def __float__(self) -> float:
        Loss.reads += 1
        return 0.25


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr("ecograph.loop.progress.time", clock)
    Loss.reads = 0
    yield clock


def shown(clock: Clock, loader: object, *, batches: int = 10, seconds: float = 1.0, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with Progress(2, loader, console=console) as progress:  # type: ignore[arg-type]
        for epoch in range(2):
            for _ in range(batches):
                clock.now += seconds
                progress.update(epoch, Loss())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_shows_epoch_batch_loss_and_time_left(clock: Clock) -> None:
    text = shown(clock, range(10))
    assert "epoch 1/2" in text and "batch 3/10" in text and "loss 0.25" in text and "0:17 left" in text
    assert "epoch 2/2" in text and "batch 10/10" in text and "0:20 in all" in text


def test_a_stream_has_no_total_in_its_first_epoch(clock: Clock) -> None:
    text = shown(clock, iter(()))
    assert "batch 3 " in text and "0:03 so far" in text
    assert "batch 1/10" in text and "0:09 left" in text


def test_an_epoch_that_is_skipped_is_shown_and_counts_as_done(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Progress(4, range(10), console=console) as progress:
        for epoch in (0, 1):
            for _ in range(10):
                clock.now += 1
                progress.update(epoch, Loss())
        reads = Loss.reads
        progress.skip(2)
        assert Loss.reads == reads + 1
        for _ in range(10):
            clock.now += 1
            progress.update(3, Loss())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    skipped = next(line for line in text.split("epoch ") if "skipped" in line)
    assert skipped.startswith("3/4") and "batch" not in skipped and "0:07 left" in skipped  # 20 s for 30 of 40 batches
    assert "epoch 4/4" in text and "batch 10/10" in text and "0:30 in all" in text


def test_a_skipped_epoch_of_a_short_run_or_without_a_terminal_is_silent(clock: Clock) -> None:
    for terminal, seconds in ((True, 0.1), (False, 10.0)):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        with Progress(2, range(1), console=console) as progress:
            clock.now += seconds
            progress.skip(1)
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue() == ""


def test_a_short_run_is_silent(clock: Clock) -> None:
    assert shown(clock, range(10), seconds=0.05) == ""
    assert Loss.reads == 0


def test_no_terminal_no_bar_and_the_loss_is_not_read(clock: Clock) -> None:
    assert shown(clock, range(10), terminal=False) == ""
    assert Loss.reads == 0


def test_the_loss_is_read_twice_a_second_at_most(clock: Clock) -> None:
    shown(clock, range(1000), batches=1000, seconds=0.01)
    assert 30 <= Loss.reads <= 40


def test_an_exception_leaves_the_terminal_in_order(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with pytest.raises(KeyboardInterrupt), Progress(2, range(10), console=console) as progress:
        clock.now += 3
        progress.update(0, torch.tensor(1.0, requires_grad=True))
        raise KeyboardInterrupt
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\x1b[?25l") == console.file.getvalue().count("\x1b[?25h") == 1


def test_clock() -> None:
    assert [_clock(seconds) for seconds in (0, 59.6, 3599, 7322)] == ["0:00", "1:00", "59:59", "2:02:02"]
