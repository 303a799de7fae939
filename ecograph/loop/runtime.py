"""What an emitted loop imports: everything it needs at run time, and nothing of the compiler."""

from ecograph.loop.batches import batch_size, batches, device_of, grouped, loss_of, pairs
from ecograph.loop.callbacks import Callback, Callbacks
from ecograph.loop.checkpoints import Checkpoints
from ecograph.loop.finite import LossWatch
from ecograph.loop.history import EpochRecord, History, NonFiniteLossError
from ecograph.loop.measure import Clock, Mean, accuracy
from ecograph.loop.progress import Progress
from ecograph.loop.tensorboard import TensorBoard

__all__ = [
    "Callback",
    "Callbacks",
    "TensorBoard",
    "Checkpoints",
    "Clock",
    "EpochRecord",
    "History",
    "LossWatch",
    "Mean",
    "NonFiniteLossError",
    "Progress",
    "accuracy",
    "batch_size",
    "batches",
    "device_of",
    "grouped",
    "loss_of",
    "pairs",
]
