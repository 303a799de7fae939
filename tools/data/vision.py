"""``torchvision:CIFAR10:FOLDER``: a data set of torchvision.datasets that is on this machine already."""

from __future__ import annotations

import inspect
import re
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from ecograph.tools import own
from ecograph.tools.data.kind import Data, Kind
from ecograph.tools.errors import UserError, one_line

FORM = "torchvision:NAME:FOLDER[:SIZE]"

_SIZE = re.compile(r"(?P<folder>.+):(?P<size>\d+)")


def make(rest: str) -> Data:
    """Returns the images as float32 from -1 to 1, with their class.

    Raises:
        UserError: where torchvision has no such data set of images with a class, or it is not in the folder.
    """
    spec = f"torchvision:{rest}"
    name, _, folder = rest.partition(":")
    match = _SIZE.fullmatch(folder)
    size = int(match["size"]) if match else None
    folder = match["folder"] if match else folder
    if not name or not folder or size == 0:
        raise UserError(
            f"data {spec!r}: give {FORM}, such as torchvision:CIFAR10:data or torchvision:ImageFolder:data:64"
        )
    kind = _kind(spec, name)
    train, val = _parts(spec, name, kind, Path(folder), _transform(size))
    return Data(spec, train, val)


def _kind(spec: str, name: str) -> Any:
    from ecograph.tools.torchvision_ops import declare_missing

    declare_missing()
    try:
        datasets: Any = import_module("torchvision.datasets")
    except ImportError as error:
        raise UserError(f"data {spec!r}: torchvision cannot be imported: {one_line(error)}") from error
    names = [each for each in datasets.__all__ if isinstance(getattr(datasets, each), type)]
    if name in names:
        return getattr(datasets, name)
    close = get_close_matches(name, names, 3)
    hint = f"; did you mean {' or '.join(close)}?" if close else f"; it has {', '.join(names)}"
    raise UserError(f"data {spec!r}: torchvision has no data set {name!r}{hint}")


def _parts(spec: str, name: str, kind: Any, folder: Path, transform: Any) -> tuple[Any, Any]:
    """Returns the data set's parts for training and for validation, by the way in which it tells them apart."""
    options = inspect.signature(kind).parameters
    if name in ("ImageFolder", "DatasetFolder"):
        names = ("val", "valid", "test")
        last = next((each for each in names if (folder / each).is_dir()), names[0])
        train, val = (_open(spec, kind, root=folder / each, transform=transform) for each in ("train", last))
        return train, val
    given = {"root": folder, "transform": transform} | ({"download": False} if "download" in options else {})
    if "train" in options:
        return _open(spec, kind, **given, train=True), _open(spec, kind, **given, train=False)
    if "split" in options:
        missing: UserError | None = None
        for split in ("val", "test"):
            try:
                return _open(spec, kind, **given, split="train"), _open(spec, kind, **given, split=split)
            except UserError as error:
                missing = missing or error
        assert missing is not None
        raise missing
    raise UserError(
        f"data {spec!r}: {name} does not say which of its images are to train on: write a function that returns "
        "(train, validation), and name it as file.py:function"
    )


def _open(spec: str, kind: Any, **options: Any) -> Any:
    try:
        return kind(**options)
    except Exception as error:  # each data set has its own way to say that files are missing
        raise UserError(f"data {spec!r}: {own.where(error)}; nothing is downloaded") from error


def _transform(size: int | None) -> Any:
    import torch

    v2: Any = import_module("torchvision.transforms.v2")
    steps: list[Any] = [v2.ToImage()]
    if size is not None:
        steps += [v2.Resize(size), v2.CenterCrop(size)]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), _centered])


def _centered(image: Any) -> Any:
    return image * 2 - 1


KIND = Kind(
    FORM,
    "a data set of torchvision.datasets that is in FOLDER, such as torchvision:CIFAR10:data; nothing is downloaded. "
    "SIZE scales and crops the images",
    make,
)
