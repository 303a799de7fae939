"""What an emitted loop imports: everything it needs at run time, and nothing of the compiler."""

from ecograph.loop.batches import batch_size, batches, device_of, grouped, loss_of, pairs
from ecograph.loop.callbacks import Callback, Callbacks
from ecograph.loop.checkpoints import Checkpoints
from ecograph.loop.distributed import InStep, Ranks, Sharding, blocks, of_parts, set_epoch
from ecograph.loop.finite import LossWatch
from ecograph.loop.history import EpochRecord, History, NonFiniteLossError
from ecograph.loop.lengths import steps_in
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
    "InStep",
    "LossWatch",
    "Mean",
    "NonFiniteLossError",
    "Progress",
    "Ranks",
    "Sharding",
    "accuracy",
    "batch_size",
    "batches",
    "blocks",
    "device_of",
    "grouped",
    "loss_of",
    "of_parts",
    "pairs",
    "steps_in",
    "set_epoch",
]
