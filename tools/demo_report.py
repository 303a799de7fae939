"""What the demo says: a table of the arms, what each figure is, and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ecograph.cost.energy import Energy, model_cpu_energy
from ecograph.report_table import human
from ecograph.tools.demo_arms import Arm, Plan, Run
from ecograph.tools.demo_verdict import count, difference, verdict


@dataclass(frozen=True)
class Result:
    """The runs of one arm.

    Attributes:
        arm: what was trained.
        runs: one for each seed, in the order of seeds.
    """

    arm: Arm
    runs: tuple[Run, ...]

    @property
    def accuracies(self) -> list[float]:
        """Share of test images recognised, for each seed."""
        return [run.accuracy for run in self.runs]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds."""
        return mean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return stdev(self.accuracies) if len(self.runs) > 1 else None

    @property
    def cpu_seconds(self) -> float:
        """Of one training, mean over the seeds."""
        return mean(run.cpu_seconds for run in self.runs)

    @property
    def energy(self) -> Energy:
        """Of one training, mean over the seeds."""
        return model_cpu_energy(self.cpu_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Returns the arm and all its runs as JSON types."""
        return {
            "name": self.arm.name,
            "title": self.arm.title,
            "epochs": self.arm.epochs,
            "accuracy_mean": self.accuracy,
            "accuracy_std": self.spread,
            "flops": self.arm.flops,
            "flops_source": "counted",
            "cpu_seconds_mean": self.cpu_seconds,
            "wall_seconds_mean": mean(run.wall_seconds for run in self.runs),
            "seconds_source": "measured:process CPU time and wall time of the training",
            "energy_joules_mean": self.energy.joules,
            "energy_source": self.energy.source,
            "runs": [vars(run) for run in self.runs],
        }


@dataclass(frozen=True)
class Report:
    """The outcome of the demo; prints as a table, notes and a verdict.

    Attributes:
        plan: what was to be trained.
        dense: trained in the plain way.
        sparse: trained with the sparse backward.
        control: dense training cut down to what the sparse arm costs.
        threads: of torch.
        seconds: wall time of everything.
    """

    plan: Plan
    dense: Result
    sparse: Result
    control: Result
    threads: int
    seconds: float

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return len(self.dense.runs)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        return {
            "task": "sklearn.datasets.load_digits",
            "train_images": self.plan.images[0],
            "test_images": self.plan.images[1],
            "model": self.plan.model,
            "epochs": self.dense.arm.epochs,
            "seeds": self.seeds,
            "threads": self.threads,
            "steps_per_epoch": self.plan.steps_per_epoch,
            "control_epochs_exact": self.plan.control_exact,
            "arms": [result.to_dict() for result in (self.dense, self.sparse, self.control)],
            "sparse_minus_dense_points": _points(self.sparse, self.dense),
            "sparse_minus_control_points": _points(self.sparse, self.control),
            "verdict": verdict(self),
            "wall_seconds_in_all": self.seconds,
        }

    def __rich__(self) -> Group:
        """Renders the report."""
        return Group(self._table(), self._notes(), Text(), Text("\n".join(verdict(self)), style="bold"))

    def _table(self) -> Table:
        table = Table(
            title=f"Handwritten digits, {self.plan.model} ResNet: one training, mean over {count(self.seeds, 'seed')}",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        table.add_column("arm")
        table.add_column("epochs", justify="right")
        spread = "mean ± std" if self.seeds > 1 else "one seed"
        for name, source in (
            ("test accuracy", spread),
            ("training FLOPs", "counted"),
            ("CPU time", "measured"),
            ("energy", self.dense.energy.source.partition(":")[0]),
        ):
            table.add_column(f"{name}\n[dim]{source}[/dim]", justify="right")
        for result in (self.dense, self.sparse, self.control):
            share = _share(result.arm.flops, self.dense.arm.flops)
            joules = result.energy.joules
            table.add_row(
                result.arm.title,
                str(result.arm.epochs),
                _accuracy(result),
                f"{human(result.arm.flops)} {share}",
                f"{result.cpu_seconds:.1f} s {_share(result.cpu_seconds, self.dense.cpu_seconds)}",
                "unknown" if joules is None else f"{joules:.0f} J",
            )
        return table

    def _notes(self) -> Text:
        exact, control = self.plan.control_exact, self.control.arm.epochs
        difference = self.control.arm.flops / self.sparse.arm.flops - 1
        lines = [
            f"control: the sparse arm's FLOPs buy {exact:.2f} dense epochs, rounded to {control} "
            f"({difference:+.1%} FLOPs); its learning-rate schedule spans those {control}",
            f"CPU time: of the process during training, {count(self.threads, 'thread')}; "
            "arms take turns in a rotating order",
            f"energy: {self.dense.energy.source.replace(':', ', ')}: it says no more than the CPU time does",
            f"data: {self.plan.images[0]} images to train on, moved by up to a pixel; {self.plan.images[1]} to test on",
            f"in all: {self.seconds:.0f} s",
        ]
        return Text("\n".join(lines), style="dim")


def report(plan: Plan, runs: Sequence[Run], **facts: Any) -> Report:
    """Returns the report of a finished demo.

    Args:
        plan: the arms.
        runs: of all arms and seeds, in any order.
        **facts: threads and seconds, as in :class:`Report`.
    """
    dense, sparse, control = (
        Result(arm, tuple(sorted((run for run in runs if run.arm == arm.name), key=lambda run: run.seed)))
        for arm in plan.arms
    )
    return Report(plan, dense, sparse, control, **facts)


def _accuracy(result: Result) -> str:
    text = f"{100 * result.accuracy:.2f}"
    return f"{text} %" if result.spread is None else f"{text} ± {100 * result.spread:.2f} %"


def _points(first: Result, second: Result) -> dict[str, float | None]:
    gap = difference(first.accuracies, second.accuracies)
    return {"mean": gap.points, "margin_95": gap.margin if isfinite(gap.margin) else None}


def _share(value: float, whole: float) -> str:
    return f"[dim]{value / whole:4.0%}[/dim]"
