"""``text:stdlib``: the source text of Python's standard library, byte by byte. Everybody has it: no download."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ecograph.tools.data.kind import Data, Kind
from ecograph.tools.errors import UserError

#: One file in so many is for validation.
SPLIT = 12
#: Bytes that a model sees at once, unless the spec says otherwise.
LENGTH = 128


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """A text cut into windows: ``(length,)`` bytes and, for each, the byte that comes after it, as int64.

    Args:
        text: ``(N,)``, uint8.
        length: of a window. What is left at the end of the text is not used.
    """

    def __init__(self, text: Tensor, length: int) -> None:
        """Keeps the text as it is; windows are cut when they are asked for."""
        self._text = text
        self._length = length

    def __len__(self) -> int:
        """Returns the number of windows."""
        return (len(self._text) - 1) // self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Returns a window."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        inputs, targets = windows(self._text, torch.tensor([index * self._length]), self._length)
        return inputs[0], targets[0]


def make(rest: str) -> Data:
    """Returns the text in windows.

    Raises:
        UserError: for a text other than ``stdlib``, and a length that is none.
    """
    name, _, given = rest.partition(":")
    if name != "stdlib" or (given and not given.isdecimal()) or given == "0":
        raise UserError(f"data 'text:{rest}': give text:stdlib, or with the length of a window text:stdlib:{LENGTH}")
    length = int(given or LENGTH)
    train, val = (Windows(part, length) for part in library())
    return Data(f"text:{rest}", train, val, loss="token_cross_entropy")


def windows(text: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Returns ``(N, length)`` inputs beginning at ``starts``, and the bytes that come after each of theirs."""
    places = starts.unsqueeze(1) + torch.arange(length + 1)
    bytes = text[places].long()
    return bytes[:, :-1], bytes[:, 1:]


@cache
def library() -> tuple[Tensor, Tensor]:
    """Returns the training and the validation text, as bytes.

    Whole files go to one side or the other, by a checksum of their path, so that the split is the same on every machine
    and a file that one Python version has and another has not moves no other.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in sources(root):
        name = path.relative_to(root).as_posix()
        parts[crc32(name.encode()) % SPLIT == 0].append(path.read_bytes())
    train, val = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return train, val


def sources(root: Path) -> Iterator[Path]:
    """Yields the library's own modules in a fixed order: no tests, and nothing that was installed beside them."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "lib2to3", "pydoc_data"}
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in left_out and not f.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


KIND = Kind(
    "text:stdlib[:LENGTH]",
    f"the source of Python's standard library in windows of LENGTH bytes ({LENGTH}), to predict the next byte",
    make,
)
