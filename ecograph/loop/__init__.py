"""The training loop as a small program: options and passes put statements in, and out comes Python text.

`TrainingLoop` is the front door, `base.py` the plain loop with its slots, `Program` what a pass sees.
"""

from ecograph.loop.callbacks import Callback
from ecograph.loop.checkpoints import CheckpointError, Interrupted
from ecograph.loop.history import EpochRecord, History, NonFiniteLossError
from ecograph.loop.loop_pass import LoopPass
from ecograph.loop.options import lr_step_if, unscale_gradients
from ecograph.loop.program import Program
from ecograph.loop.rates import advance_rates, insert_scheduler
from ecograph.loop.training_loop import TrainingLoop
from ecograph.loop.values import Code, code, literal

__all__ = [
    "Callback",
    "CheckpointError",
    "Code",
    "EpochRecord",
    "History",
    "Interrupted",
    "LoopPass",
    "NonFiniteLossError",
    "Program",
    "TrainingLoop",
    "advance_rates",
    "code",
    "insert_scheduler",
    "literal",
    "lr_step_if",
    "unscale_gradients",
]
