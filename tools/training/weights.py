"""Writing what was trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ecograph.tools.errors import UserError
from ecograph.tools.ranks import is_main


def check_place(path: Path, option: str) -> None:
    """Makes the folder of a file that is to be written when training has ended, so that it will not fail then.

    Raises:
        UserError: where no file can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder: give a file, such as weights.pt")
        with path.open("ab"):
            pass
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}") from error


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the state_dict, its tensors on the CPU; of several processes, the first one does."""
    if not is_main():
        return
    state = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in model.state_dict().items()
    }
    part = path.with_name(path.name + ".part")
    torch.save(state, part)
    part.replace(path)
