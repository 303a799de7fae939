"""``random:3x32x32:10``: noise with labels that can be learned, for trying things out and for timing."""

from __future__ import annotations

import re

import torch
from torch.utils.data import TensorDataset

from ecograph.tools.data.kind import Data, Kind
from ecograph.tools.errors import UserError

#: To train on, unless the spec says otherwise; a quarter as many are for validation.
SAMPLES = 512

_FORM = re.compile(r"(?P<shape>\d+(?:[x×]\d+)*):(?P<classes>\d+)(?::(?P<samples>\d+))?")


def make(rest: str) -> Data:
    """Returns samples from N(0, 1), labelled by the largest of some fixed random projections.

    Raises:
        UserError: for another form than ``SHAPE:CLASSES[:SAMPLES]``.
    """
    match = _FORM.fullmatch(rest)
    shape = [int(size) for size in re.split("[x×]", match["shape"])] if match else []
    classes, samples = (int(match["classes"]), int(match["samples"] or SAMPLES)) if match else (0, 0)
    if not shape or not all(shape) or classes < 2 or samples < 1:
        raise UserError(
            f"data 'random:{rest}': give random:SHAPE:CLASSES[:SAMPLES], such as random:3x32x32:10 or "
            "random:3x224x224:1000:256, with two classes or more"
        )
    generator = torch.Generator().manual_seed(0)
    projections = torch.randn(torch.Size(shape).numel(), classes, generator=generator)

    def part(count: int) -> TensorDataset:
        inputs = torch.randn(count, *shape, generator=generator)
        return TensorDataset(inputs, (inputs.flatten(1) @ projections).argmax(1))

    return Data(f"random:{rest}", part(samples), part(max(1, samples // 4)))


KIND = Kind(
    "random:SHAPE:CLASSES[:SAMPLES]",
    f"noise with labels that can be learned, such as random:3x32x32:10; {SAMPLES} samples, unless you say how many",
    make,
)
