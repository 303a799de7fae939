"""What an emitted loop imports: everything it needs at run time, and nothing of the compiler."""

from ecograph.loop.batches import batch_size, batches, device_of, grouped, loss_of, pairs
from ecograph.loop.history import EpochRecord, History, NonFiniteLossError
from ecograph.loop.measure import Mean, accuracy
from ecograph.loop.progress import Progress

__all__ = [
    "EpochRecord",
    "History",
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
