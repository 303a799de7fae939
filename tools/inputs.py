"""``--input``: example inputs as a user writes them, such as ``8x3x32x32`` or ``input_ids=2x16:int64``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ecograph.tools.errors import UserError

#: What may follow the colon: torch's names, and short ones.
DTYPES = {
    **{name: name for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")},
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "float": "float32",
    "int": "int64",
    "long": "int64",
}

_FORM = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>[^:=]*)(?::(?P<dtype>\w+))?")


@dataclass(frozen=True)
class Input:
    """One example input.

    Attributes:
        shape: its sizes.
        dtype: torch's name of its type.
        name: the keyword it is given by, or None where it is given by position.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    name: str | None = None

    def __str__(self) -> str:
        """Returns it as it is written after ``--input``."""
        name = f"{self.name}=" if self.name else ""
        dtype = "" if self.dtype == "float32" else f":{self.dtype}"
        return f"{name}{'x'.join(map(str, self.shape))}{dtype}"


def parse(text: str) -> Input:
    """Returns the input that ``[NAME=]SHAPE[:DTYPE]`` describes.

    Raises:
        UserError: where it does not.
    """
    match = _FORM.fullmatch(text.strip())
    sizes = re.split(r"[x×,]", match["shape"]) if match else []
    if match is None or not all(size.strip().isdecimal() for size in sizes):
        raise UserError(f"--input {text!r}: give [NAME=]SHAPE[:DTYPE], such as 8x3x32x32 or input_ids=2x16:int64")
    dtype = match["dtype"] or "float32"
    if dtype not in DTYPES:
        raise UserError(f"--input {text!r}: {dtype!r} is no dtype; give one of {', '.join(DTYPES)}")
    return Input(tuple(int(size) for size in sizes), DTYPES[dtype], match["name"])


def example_inputs(inputs: Sequence[Input], device: str) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Returns ``(args, kwargs)`` of zeros on a device, or None where there are no inputs.

    Zeros, because they are a valid token, class and pixel in every model.
    """
    import torch

    if not inputs:
        return None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for each in inputs:
        tensor = torch.zeros(each.shape, dtype=getattr(torch, each.dtype), device=device)
        if each.name is None:
            args.append(tensor)
        else:
            kwargs[each.name] = tensor
    return tuple(args), kwargs
