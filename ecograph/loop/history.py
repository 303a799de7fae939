"""What happened during training, epoch by epoch."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


class NonFiniteLossError(FloatingPointError):
    """The training loss became nan or infinite, and training was stopped.

    Attributes:
        history: the epochs so far, with the one that failed.
    """

    def __init__(self, message: str, history: History) -> None:
        """Keep the history, so that a long run is not lost with the exception."""
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: counted from 0, like the loop's variable; tables and progress bars count from 1.
        train_loss: mean over the samples of the epoch, while the weights were changing. None for no samples.
        val_loss: mean over the samples of the validation loader, after the epoch. None without one.
        lr: the learning rate of the first parameter group at the end of the epoch, before a scheduler that
            advances by the epoch changes it.
        seconds: wall time of the epoch, validation included.
        values: what metrics and passes recorded besides, by name.
        note: what else happened, in words: "skipped by GradSamp". Empty in an ordinary epoch.
    """

    epoch: int
    train_loss: float | None
    val_loss: float | None
    lr: float
    seconds: float
    values: dict[str, float | None] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, float | str | None]:
        """Return the record as one flat dict that JSON can hold."""
        record: dict[str, float | str | None] = {
            "epoch": self.epoch,
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            **self.values,
            "lr": self.lr,
            "seconds": self.seconds,
        }
        return record | ({"note": self.note} if self.note else {})


class History:
    """The records of a training run, a sequence of `EpochRecord`. `rich.print(history)` shows a table."""

    def __init__(self) -> None:
        """Start with no epochs."""
        self._records: list[EpochRecord] = []
        self._notes: list[str] = []

    def record(
        self,
        epoch: int,
        *,
        train_loss: float | None,
        val_loss: float | None = None,
        lr: float,
        seconds: float,
        **values: float | None,
    ) -> None:
        """Add an epoch.

        Raises:
            NonFiniteLossError: if the training loss is nan or infinite: more training would be wasted.
        """
        note = "; ".join(self._notes)
        self._notes.clear()
        self._records.append(EpochRecord(epoch, train_loss, val_loss, float(lr), seconds, values, note))
        if train_loss is not None and not math.isfinite(train_loss):
            raise NonFiniteLossError(
                f"the training loss of epoch {epoch + 1} is {train_loss}, so training was stopped: lower the "
                'learning rate, clip gradients (clip=1.0), use amp="bf16" in place of "fp16", or look for '
                "nan in the data; the epochs so far are in the `history` of this error",
                self,
            )

    def note(self, text: str) -> None:
        """Say something about the epoch that will be recorded next."""
        self._notes.append(text)

    def column(self, name: str) -> list[float | str | None]:
        """Return one value of every epoch, None where it is missing: `history.column("val_loss")`.

        Raises:
            ValueError: if no epoch has a value of that name.
        """
        rows = [record.to_dict() for record in self._records]
        if rows and not any(name in row for row in rows):
            raise ValueError(f"the history has no {name!r}; it has {', '.join(self._names())}")
        return [row.get(name) for row in rows]

    def to_dict(self) -> dict[str, object]:
        """Return the history as a dict that JSON can hold: the epochs, and the seconds they took together."""
        return {
            "epochs": [record.to_dict() for record in self._records],
            "seconds": sum(record.seconds for record in self._records),
        }

    def save(self, path: str | Path) -> None:
        """Write the epochs to a file: one line each, as .csv or .jsonl. An older file is replaced as a whole.

        Raises:
            ValueError: for another ending.
        """
        path = Path(path)
        rows = [record.to_dict() for record in self._records]
        text = io.StringIO(newline="")
        if path.suffix == ".csv":
            writer = csv.DictWriter(text, self._names())
            writer.writeheader()
            writer.writerows(rows)
        elif path.suffix == ".jsonl":
            text.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            raise ValueError(f"{path} must end in .csv or .jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text.getvalue(), encoding="utf-8", newline="")
        part.replace(path)

    def state_dict(self) -> dict[str, Any]:
        """Return everything recorded, as numbers and strings."""
        return {"epochs": [asdict(record) for record in self._records], "notes": list(self._notes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._records = [EpochRecord(**record) for record in state["epochs"]]
        self._notes = list(state["notes"])

    def __len__(self) -> int:
        """Return the number of epochs."""
        return len(self._records)

    def __iter__(self) -> Iterator[EpochRecord]:
        """Iterate over the epochs."""
        return iter(self._records)

    def __getitem__(self, index: int) -> EpochRecord:
        """Return one epoch; -1 is the last."""
        return self._records[index]

    def __repr__(self) -> str:
        """Say how long it is, and how it ended."""
        last = f", last: {self._records[-1].to_dict()}" if self._records else ""
        return f"<History of {len(self)} epochs{last}>"

    def __rich__(self) -> Table:
        """Return a table with one line per epoch."""
        from rich.table import Table

        names = [name for name in self._names() if any(each is not None for each in self.column(name))]
        table = Table(*(name.replace("_", " ") for name in names))
        for record in self._records:
            row = record.to_dict() | {"epoch": record.epoch + 1}
            table.add_row(*(_cell(row.get(name)) for name in names))
        return table

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for record in self._records for name in record.to_dict()))


def _cell(value: float | str | None) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)
