"""All that is no product, at sizes from tiny to large."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ecograph.cost.calibration.workloads.images import on_images
from ecograph.cost.calibration.workloads.optimizer import in_optimizer
from ecograph.cost.calibration.workloads.rows import on_rows
from ecograph.cost.calibration.workloads.workload import Workload

#: Elements of the tensors on which all that is not a product is timed.
_ELEMENTS = (2**10, 2**17, 2**22)


def others(dtype: torch.dtype) -> Iterator[Workload]:
    """Yields all that is no product: each on images, or on rows of features, as it occurs."""
    for elements in _ELEMENTS:
        for name, run, operands, phase in (*on_rows(elements, dtype), *on_images(elements, dtype)):
            yield Workload(f"{name} of {elements}", run, operands, phase)
        yield from in_optimizer(elements, dtype)
