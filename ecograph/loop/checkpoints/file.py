"""One checkpoint file: written whole or not at all, and read without running any code that is in it."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

FORMAT = "ecograph checkpoint"
VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be used: it cannot be read, or it is of another run."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` so that ``path`` holds either what it held before or all of it, whenever the power goes.

    Args:
        path: in a folder that exists.
        content: tensors, numbers, strings, None, and dicts, lists and tuples of them.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def read(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint, its tensors on the CPU.

    Raises:
        CheckpointError: for a file that is cut off, that is something else, or that holds objects other than tensors,
            numbers, strings and containers, which could run code as they are read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of numbers and tensors alone, or is damaged: {_first_sentence(error)}"
        ) from error
    except Exception as error:  # whatever torch's readers come upon, in a file that may hold any bytes
        raise CheckpointError(f"{path} is cut off or damaged: {_first_sentence(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by a training loop of ecograph")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {content.get('version')}, this ecograph reads {VERSION}: "
            "go on with the ecograph that wrote it"
        )
    return content


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).split(". ")[0][:200]


def _sync_folder(folder: Path) -> None:
    """Makes the new name last, on systems where folders can be synchronized."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
