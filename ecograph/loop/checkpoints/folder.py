"""The folder of a run: its checkpoints by age, and what is left over from a process that was killed."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecograph.loop.checkpoints.file import CheckpointError, read, write

_NAME = re.compile(r"epoch-(\d{4,})-step-(\d{6,})\.pt")
_PART = re.compile(_NAME.pattern + r"\.\d+\.part")


@dataclass(frozen=True)
class Folder:
    """A folder with the last ``keep`` checkpoints.

    Attributes:
        path: is made when the first is written.
        keep: how many; with two, one that turns out to be damaged has one before it.
    """

    path: Path
    keep: int = 2

    def files(self) -> list[Path]:
        """Returns the checkpoints, the last one first."""
        if not self.path.is_dir():
            return []
        found = {path: match for path in self.path.iterdir() if (match := _NAME.fullmatch(path.name))}
        return sorted(found, key=lambda path: tuple(map(int, found[path].groups())), reverse=True)

    def write(self, epoch: int, step: int, content: dict[str, Any]) -> Path:
        """Writes a checkpoint, then removes those that are too many.

        Args:
            epoch: that training is in, counted from 0; after the last one, how many there are.
            step: optimizer steps taken in it.
            content: see ``file.write``.

        Returns:
            Its path.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"epoch-{epoch:04}-step-{step:06}.pt"
        write(path, content)
        for each in self.path.iterdir():
            if _PART.fullmatch(each.name):  # of a process that was killed while it wrote
                each.unlink()
        for each in self.files()[self.keep :]:
            each.unlink()
        return path

    def last(self) -> tuple[Path, dict[str, Any]] | None:
        """Returns the last checkpoint that can be read, with its content; None where there are none.

        Warns of each that cannot be read.

        Raises:
            CheckpointError: where there are some and none can be read.
        """
        files = self.files()
        for at, path in enumerate(files):
            try:
                return path, read(path)
            except CheckpointError as error:
                if at + 1 == len(files):
                    raise CheckpointError(
                        f"none of the checkpoints in {self.path} can be read: {error}. "
                        "Give another folder to start anew"
                    ) from error
                warnings.warn(f"{error}; going on from {files[at + 1].name}, which is older", stacklevel=4)
        return None
