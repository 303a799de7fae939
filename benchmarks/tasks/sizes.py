"""The tasks of the frontier in two sizes: to see that it works and where it leads, and to know."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from tasks import digits, text
from tasks.task import Task

#: Tasks that draw need matplotlib; who has none can still run the others.
try:
    from tasks import diffusion, glyphs, segmentation

    _DRAWN: dict[str, dict[str, Callable[[], Task]]] = {
        "glyphs": {
            "long": glyphs.task,
            "short": partial(
                glyphs.task, count=800, epochs=8, widths=(32, 64), batch=32, test=1000, classes=10, noise=0.05, lr=0.1
            ),
        },
        "diffusion": {
            "long": diffusion.task,
            "short": partial(diffusion.task, count=480, epochs=8, widths=(32, 64), batch=32, test=500),
        },
        "segmentation": {
            "long": segmentation.task,
            "short": partial(
                segmentation.task, count=120, epochs=8, widths=(16, 32, 64), batch=8, test=100, kinds=1, lr=5e-3
            ),
        },
    }
except ImportError:
    _DRAWN = {}


def _cifar(classes: int) -> Task:
    from tasks import cifar

    return cifar.task(classes=classes)


SIZES: dict[str, dict[str, Callable[[], Task]]] = {
    "digits": {"long": digits.task, "short": partial(digits.task, widths=(32, 64))},
    "text": {"long": partial(text.task, 4.0), "short": partial(text.task, 0.25, width=64, heads=2, depth=2)},
    **_DRAWN,
    "cifar10": {"long": partial(_cifar, 10)},
    "cifar100": {"long": partial(_cifar, 100)},
}


@cache
def make_task(name: str, size: str) -> Task:
    """Returns a task; its data is made or read once in a process."""
    return SIZES[name][size]()
