"""Writing what was trained, and beginning from what was."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from ecograph.tools.console import note
from ecograph.tools.errors import UserError, one_line
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


def load_weights(model: nn.Module, path: Path) -> None:
    """Has a model begin from a state_dict that was saved, such as ``weights.pt`` of an earlier job.

    Layers whose shape is another one, such as a head for other classes, keep their fresh weights, with a note.

    Raises:
        UserError: for a file that cannot be read, is no state_dict, or has nothing for this model.
    """
    says = f"model.weights {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{says}: {error.strerror or error}") from error
    except Exception as error:  # whatever is in a file that is none of torch's
        raise UserError(f"{says}: it is no file of torch.save with tensors alone: {one_line(error)}") from error
    own = model.state_dict()
    if not isinstance(state, dict) or not set(state) & set(own):
        raise UserError(f"{says} holds nothing for this model: give a state_dict of it")
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fits, strict=False)
    if fresh := [name for name in own if name not in fits]:
        note(f"{says} does not have {', '.join(fresh[:5])}{' ...' * (len(fresh) > 5)}: left as they are")


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Has layers keep their weights: they need no gradient, so their part of the backward is saved, too.

    Raises:
        UserError: for a name that the model does not have, and where nothing is left to train.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules or not name:
            close = get_close_matches(name, modules, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"model.freeze: the model has no layer {name!r}{hint}")
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"model.freeze = {list(names)} leaves nothing to train: leave one out")
