"""What may go wrong while a loop runs: a line for what the user can put right, a traceback for all else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ecograph.tools.console import stderr
from ecograph.tools.errors import UserError, one_line

INTERRUPTED = 130


@contextmanager
def training_errors(resume: str, *, keep: str) -> Iterator[None]:
    """Put around the run of a loop.

    Args:
        resume: the command line that goes on with the training.
        keep: what to do for training to be kept when it is interrupted, where it is not.

    Raises:
        UserError: for a checkpoint that cannot be used, a loss that is nan, and batches that are not what they should.
        typer.Exit: with 130, after Ctrl-C.
    """
    from ecograph.loop import CheckpointError, Interrupted, NonFiniteLossError

    try:
        yield
    except Interrupted as error:
        _say(f"to go on: {resume}")
        raise typer.Exit(INTERRUPTED) from error
    except KeyboardInterrupt as error:
        _say(f"interrupted, and nothing is kept: {keep}")
        raise typer.Exit(INTERRUPTED) from error
    except (ValueError, NonFiniteLossError) as error:
        if not isinstance(error, (CheckpointError, NonFiniteLossError)) and not _is_ours(error):
            raise
        raise UserError(one_line(error).replace("resume=True", "--resume")) from error


def _is_ours(error: BaseException) -> bool:
    """Whether the loop itself has found it, as it does with batches; the user's code keeps its traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return module == "ecograph.schedule" or module.startswith("ecograph.loop.")


def _say(text: str) -> None:
    stderr().print(text, markup=False, soft_wrap=True)
