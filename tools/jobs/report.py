"""What came out of a job: a table of its epochs, what the passes did, how long it took, and where everything is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.text import Text

from ecograph.cost.meter.used import joules_text
from ecograph.explain import Report
from ecograph.loop import History
from ecograph.report_table import human
from ecograph.tools.console import finite
from ecograph.tools.jobs.job import Energy
from ecograph.tools.jobs.plan import Planned
from ecograph.tools.training.kinds import in_loop_alone
from ecograph.tools.training.table import table_of


@dataclass(frozen=True)
class Outcome:
    """A finished job; prints as a table and some lines.

    Attributes:
        planned: the job and what was made for it.
        history: of its epochs.
        explained: what the passes did to the model, or None.
        seconds: wall time of this process, with all preparations.
        files: what was written, by what it is.
    """

    planned: Planned
    history: History
    explained: Report | None
    seconds: float
    files: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        model = self.planned.ready.model
        data: dict[str, Any] = {
            "job": self.planned.job.table,
            "device": str(next(model.parameters()).device),
            "parameters": sum(each.numel() for each in model.parameters()),
            "history": finite(self.history.to_dict()),
            "notes": dict(_notes(self.history)),
            "seconds_in_all": self.seconds,
            "files": dict(self.files),
            "passes": [each.to_dict() for each in self.planned.job.passes],
        }
        if self.explained is not None:
            found = self.explained.to_dict()
            names = ("passes", "flops_before", "flops_after", "flops_source", "notes")
            data["explain"] = {name: found[name] for name in names}
        return data

    def __rich__(self) -> Group:
        """Renders the report."""
        return Group(table_of(self.history), Text("\n".join(self._lines()), style="dim"))

    def _lines(self) -> Sequence[str]:
        lines = [f"{each.name}: in the loop; {each.numerics}" for each in in_loop_alone(self.planned.job.passes)]
        if self.explained is not None:
            lines += _savings(self.explained)
        lines += [f"{count} of {len(self.history)} epochs: {note}" for note, count in _notes(self.history)]
        trained = sum(record.seconds for record in self.history)
        lines.append(f"time: {trained:.1f} s for {len(self.history)} epochs; {self.seconds:.1f} s since this start")
        lines.append(_energy(self.history, self.planned.job.energy))
        return [*lines, *(f"{name}: {path}" for name, path in self.files.items())]


def _energy(history: History, comes_to: Energy) -> str:
    """Returns the energy of all epochs, what it makes in kWh and CO2, and how it is known."""
    energy = history.energy
    if energy.joules is None:
        return "energy: unknown; ecograph doctor says how to get it"
    return f"energy: {joules_text(energy.joules)}, {energy.source}; {comes_to.footprint(energy.joules)}"


def _notes(history: History) -> list[tuple[str, int]]:
    return Counter(record.note for record in history if record.note).most_common()


def _savings(report: Report) -> list[str]:
    """Returns what the passes saved, in a line for each and one for all."""
    before, after = report.before.total, report.after.total
    if not before:
        return []
    source = "counted" if report.complete else "counted for the layers with known shapes"
    lines = []
    for options in report.passes:
        name = options["name"]
        layers = sum(name in layer.passes for layer in report.layers)
        share = report.saved_by(name) / before
        lines.append(f"{name}: {layers} of {len(report.layers)} layers, saves {share:.0%} of the FLOPs of a step")
    lines.append(f"a step: {human(before)} FLOPs dense, {human(after)} on average ({after / before:.0%}); {source}")
    return [*lines, *report.notes]
