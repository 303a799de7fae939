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

from ecograph.cost.energy import Energy
from ecograph.cost.meter.used import Part, joules_text, kinds, total

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
        joules: energy of the epoch, validation included; of all processes. None where nothing is known.
        energy_source: how the joules are known: ``"measured:nvml + modelled:7 W per busy core"``; ``"none"`` for
            none, empty where nobody asked.
    """

    epoch: int
    train_loss: float | None
    val_loss: float | None
    lr: float
    seconds: float
    values: dict[str, float | None] = field(default_factory=dict)
    note: str = ""
    joules: float | None = None
    energy_source: str = ""

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
        if self.energy_source:
            record |= {"joules": self.joules, "energy_source": self.energy_source}
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
        energy: Energy | None = None,
        **values: float | None,
    ) -> None:
        """Add an epoch.

        Raises:
            NonFiniteLossError: if the training loss is nan or infinite: more training would be wasted.
        """
        note = "; ".join(self._notes)
        self._notes.clear()
        joules, source = (None, "") if energy is None else (energy.joules, energy.source)
        self._records.append(
            EpochRecord(epoch, train_loss, val_loss, float(lr), seconds, values, note, joules, source)
        )
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

    @property
    def energy(self) -> Energy:
        """The energy of all epochs together and its sources.

        Unknown where that of epochs is, unless they took less than a hundredth of the time, as epochs that are skipped
        do: they are too short for a meter. Where all are, measure around the training: ``ecograph.measure()``.
        """
        unknown = sum(record.seconds for record in self._records if record.joules is None)
        needed = unknown > sum(record.seconds for record in self._records) / 100
        return total(Part("epoch", each.joules, each.energy_source, needed=needed) for each in self._records)

    def to_dict(self) -> dict[str, object]:
        """Return the history as a dict that JSON can hold: the epochs, and what they took together."""
        return {
            "epochs": [record.to_dict() for record in self._records],
            "seconds": sum(record.seconds for record in self._records),
            "joules": self.energy.joules,
            "energy_source": self.energy.source,
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
        names = [name for name in names if name != "energy_source"]  # it stands at the head of the joules
        table = Table(*(self._heading(name) for name in names))
        for record in self._records:
            energy = None if record.joules is None else joules_text(record.joules)
            row = record.to_dict() | {"epoch": record.epoch + 1, "joules": energy}
            table.add_row(*(_cell(row.get(name)) for name in names))
        return table

    def _heading(self, name: str) -> str:
        if name != "joules":
            return name.replace("_", " ")
        labels = {label for record in self._records for label in kinds(record.energy_source)}
        return f"energy ({' + '.join(sorted(labels))})"

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
