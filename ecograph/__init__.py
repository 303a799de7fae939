"""A compiler for cheaper training of PyTorch models.

>>> model = ecograph.optimize(model, example_inputs=(x,))  # same class, same Parameters, same state_dict keys
>>> scheduler = ecograph.Scheduler(model, epochs=30, steps_per_epoch=len(loader))
>>> with ecograph.measure() as used:  # joules, with their source
...     train(model)
>>> print(ecograph.explain(model))
>>> model = ecograph.restore(model)
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ecograph.allocator import keep_memory
from ecograph.errors import NoEffectWarning
from ecograph.explain import explain
from ecograph.optimize import optimize, restore
from ecograph.schedule import Scheduler

if TYPE_CHECKING:
    from ecograph import passes
    from ecograph.advice.advise import advise
    from ecograph.cost.estimate import estimate
    from ecograph.cost.meter import measure
    from ecograph.export.ort_training import export_onnx_training
    from ecograph.loop import TrainingLoop
    from ecograph.sweeps.sweep import sweep

__version__ = version("ecograph")

__all__ = [
    "NoEffectWarning",
    "Scheduler",
    "TrainingLoop",
    "advise",
    "estimate",
    "explain",
    "export_onnx_training",
    "keep_memory",
    "measure",
    "optimize",
    "passes",
    "restore",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Imports the passes, the loop generator, the meter and what measures when they are first asked for."""
    if name == "passes":
        return import_module("ecograph.passes")
    if name in ("export", "loop", "sweeps"):
        return import_module(f"ecograph.{name}")
    if name == "TrainingLoop":
        return import_module("ecograph.loop").TrainingLoop
    if name == "advise":
        return import_module("ecograph.advice").advise
    if name == "estimate":
        return import_module("ecograph.cost.estimate").estimate
    if name == "export_onnx_training":
        return import_module("ecograph.export").export_onnx_training
    if name == "measure":
        return import_module("ecograph.cost.meter").measure
    if name == "sweep":
        return import_module("ecograph.sweeps").sweep
    raise AttributeError(f"module 'ecograph' has no attribute {name!r}")
