"""Which of several processes this is, as torchrun says, and the device it trains on. The first one prints."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ecograph.tools.errors import UserError, one_line

if TYPE_CHECKING:
    import torch


def rank() -> int:
    """Returns the number of this process, 0 where it is the only one."""
    return _number("RANK", 0)


def world_size() -> int:
    """Returns how many processes train together."""
    return _number("WORLD_SIZE", 1)


def is_main() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


def check_started(*, distributed: bool, option: str, arguments: Sequence[str]) -> None:
    """Raises UserError unless there are as many processes as the loop is for: one, or several.

    Args:
        distributed: whether it is for several.
        option: what makes a loop one for several, for an error.
        arguments: those of the command line.
    """
    if distributed and "RANK" not in os.environ:
        started = ["torchrun", "--nproc-per-node=2", *_program(sys.argv)[1:], *arguments]
        if _program(sys.argv)[0] == "ecograph":
            started[2:2] = ["-m", "ecograph.tools"]
        raise UserError(f"the loop trains in several processes: start them with {shlex.join(started)}")
    if not distributed and world_size() > 1:
        raise UserError(
            f"{world_size()} processes were started, and the loop trains in one: start it alone, or {option}"
        )


def find_device(name: str) -> torch.device:
    """Returns a device that can be used; of several processes on a machine, each gets a GPU of its own.

    Args:
        name: ``"auto"``: an accelerator where there is one, or else the CPU. Or torch's name for a device.

    Raises:
        UserError: where there is no such device.
    """
    import torch

    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if accelerator is None else accelerator.type
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", _number("LOCAL_RANK", 0))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r}: {one_line(error).partition('. ')[0]}: give auto or cpu") from error
    if device.type == "meta":
        raise UserError("device 'meta' holds no data, so nothing can be trained there: give auto or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def command(*arguments: str) -> str:
    """Returns a command line that runs this program with other arguments, to be copied to a shell."""
    return shlex.join([*_program(sys.argv), *arguments])


def _program(argv: Sequence[str]) -> list[str]:
    """Returns how this program was started: as ``ecograph``, as a script of its own, by ``python -m`` or torchrun."""
    started = Path(argv[0] if argv else "ecograph")
    several = "TORCHELASTIC_RUN_ID" in os.environ
    start = ["torchrun", f"--nproc-per-node={_number('LOCAL_WORLD_SIZE', 1)}"] if several else ["python"]
    if started.name == "__main__.py":
        return [*start, "-m", "ecograph.tools"]
    if started.suffix == ".py":
        return [*start, str(started)]
    return ["ecograph"]


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default
