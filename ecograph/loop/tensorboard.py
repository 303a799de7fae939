"""The history in TensorBoard."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from ecograph.loop.history import EpochRecord, History


class TensorBoard:
    """Writes the values of each epoch as scalars. A resumed run replaces what was written of later epochs."""

    def __init__(self, folder: str, history: History, *, writes: bool = True) -> None:
        """Prepare to write to `folder`; the file is made when training begins. Or write nothing, unless `writes`.

        Raises:
            ValueError: if TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f'log="{folder}" writes to TensorBoard, which is not installed: pip install tensorboard; or give a '
                "file that ends in .csv or .jsonl"
            ) from error
        self._make = SummaryWriter
        self._folder = folder
        self._history = history
        self._writer: Any = None
        self._writes = writes

    def __enter__(self) -> TensorBoard:
        """Open the file."""
        if self._writes:
            self._writer = self._make(self._folder, purge_step=len(self._history) + 1)
        return self

    def write(self, record: EpochRecord) -> None:
        """Write an epoch; TensorBoard counts them from 1."""
        if self._writer is None:
            return
        for name, value in record.to_dict().items():
            if name != "epoch" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, record.epoch + 1)
        self._writer.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
