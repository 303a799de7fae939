"""The epochs of a training, for people."""

from __future__ import annotations

from rich.table import Table

from ecograph.loop import History

#: Epochs that are shown; of more, the first, the last, and some between.
ROWS = 10


def table_of(history: History) -> Table:
    """Returns the history as a table, or some of its epochs."""
    last = len(history) - 1
    shown = sorted({round(at * last / (ROWS - 1)) for at in range(ROWS)}) if last >= ROWS else range(last + 1)
    epochs = history.state_dict()["epochs"]
    some = History()
    some.load_state_dict({"epochs": [epochs[at] for at in shown], "notes": []})
    table = some.__rich__()
    if len(some) < len(history):
        table.caption = f"{len(some)} of {len(history)} epochs"
    return table
