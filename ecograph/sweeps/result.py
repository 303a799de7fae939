"""What a search found out: read from its study, at any time and by anybody."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ecograph.printed import Printed
from ecograph.sweeps import study as studies
from ecograph.sweeps.attempt import REACHED, Attempt, cost_of
from ecograph.sweeps.space import Space, Values, label
from ecograph.sweeps.study import ATTEMPT, CONFIRMS, PROBES, REPEAT_OF
from ecograph.sweeps.target import Target

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


#: Trainings that reached the target from which on it is told what matters.
FEWEST = 8


@dataclass(frozen=True)
class Row:
    """A setting and what became of it.

    Attributes:
        number: of its trial.
        values: the setting.
        attempt: of the search.
        repeats: of it, from other seeds, by which the best was chosen.
        minimize: quantity.
        confirmations: of it, from seeds that had no part in the choice.
    """

    number: int
    values: Values
    attempt: Attempt
    repeats: Sequence[Attempt] = ()
    minimize: str = "energy"
    confirmations: Sequence[Attempt] = ()

    @property
    def attempts(self) -> list[Attempt]:
        """The first one, its repeats and its confirmations."""
        return [self.attempt, *self.repeats, *self.confirmations]

    @property
    def cost(self) -> float | None:
        """To reach the target once, failed attempts included: by the confirmations alone, where there are some.

        What a setting was chosen for is in part luck, which they do not share. None where the search's own attempt did
        not reach the target, or no confirmation.
        """
        if self.attempt.outcome != REACHED:
            return None
        found = cost_of(self.confirmations or self.attempts, self.minimize)
        return found if math.isfinite(found) else None

    @property
    def share_reached(self) -> float:
        """Of all its attempts, the share that reached the target."""
        return sum(each.outcome == REACHED for each in self.attempts) / len(self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON types."""
        return {
            "trial": self.number,
            "setting": {name: _json(value) for name, value in self.values.items()},
            "mean_cost": self.cost,
            "share_reached": self.share_reached,
            **self.attempt.to_dict(),
            "repeats": [each.to_dict() for each in self.repeats],
            "confirmations": [each.to_dict() for each in self.confirmations],
        }


@dataclass(frozen=True, repr=False)
class Sweep(Printed):
    """The outcome of a search; prints as tables.

    Attributes:
        name: of the study.
        target: what was to be reached.
        minimize: quantity.
        rows: all settings that were tried, in the order of their trials.
        probes: what was measured before; see ``probe.py``.
        importance: share of the differences in cost that a parameter accounts for, where that can be told.
        start: the setting that was compared with; None where there is none.
    """

    name: str
    target: Target
    minimize: str
    rows: Sequence[Row]
    probes: Mapping[str, Any] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)
    start: Values | None = None

    @property
    def reached(self) -> list[Row]:
        """The settings that reached the target, the cheapest first."""
        found = [row for row in self.rows if row.cost is not None]
        return sorted(found, key=lambda row: row.cost or math.inf)

    @property
    def best(self) -> Row | None:
        """The cheapest of the settings that were trained most often; None where no setting reached the target.

        By all that they were trained: of several that were confirmed, one whose confirmations were dear falls back.
        """
        most = max((len(row.attempts) for row in self.reached), default=0)
        found = [row for row in self.reached if len(row.attempts) == most]
        return min(found, key=lambda row: cost_of(row.attempts, self.minimize), default=None)

    @property
    def worst(self) -> Row | None:
        """The dearest setting that reached the target."""
        return max(self.reached, key=lambda row: row.cost or 0.0, default=None)

    @property
    def spread(self) -> float | None:
        """What the dearest setting that reached the target costs, in times of the best."""
        if self.best is None or self.worst is None or not self.best.cost:
            return None
        return (self.worst.cost or 0.0) / self.best.cost

    @property
    def baseline(self) -> Row | None:
        """The setting to compare with, where it was tried."""
        if self.start is None:
            return None
        known = {name: label(value) for name, value in self.start.items()}
        for row in self.rows:
            if {name: label(value) for name, value in row.values.items()} == known:
                return row
        return None

    @property
    def search_cost(self) -> float | None:
        """Of all trials, repeats and probes, in what is minimized; None where that is not counted, as FLOPs are not."""
        spent = [each.spent.get(self.minimize) for row in self.rows for each in row.attempts]
        known = [each for each in spent if each is not None]
        if not known:
            return None
        return sum(known) + float(self.probes.get("spent", {}).get(self.minimize) or 0.0)

    @property
    def pays_back_after(self) -> float | None:
        """Trainings with the best setting, in place of what it is compared with, that pay for the search."""
        best, search = self.best, self.search_cost
        if best is None or best.cost is None or search is None:
            return None
        saved = self.compared_with[1] - best.cost
        return search / saved if saved > 0 else None

    @property
    def compared_with(self) -> tuple[str, float]:
        """What the best setting is compared with, in words, and its cost."""
        base = self.baseline
        if base is not None and base.cost is not None:
            return "the setting that you began with", base.cost
        costs = [row.cost or 0.0 for row in self.reached]
        return "the median setting that reached the target", statistics.median(costs) if costs else 0.0

    @property
    def energy_source(self) -> str:
        """How joules are known."""
        return " + ".join(
            sorted({row.attempt.energy_source for row in self.rows if row.attempt.energy_source != "none"})
        )

    def front(self) -> list[tuple[float, float, int]]:
        """Returns the Pareto front: joules, metric and trial, each dearer and better than the one before it."""
        points = [
            (joules, value, row.number)
            for row in self.rows
            for joules, _, value in row.attempt.curve
            if joules is not None and value is not None
        ]
        found: list[tuple[float, float, int]] = []
        for joules, value, number in sorted(points, key=lambda p: (p[0], self.target.shortfall(p[1]))):
            if self.target.better(value, found[-1][1] if found else None):
                found.append((joules, value, number))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        compared, cost = self.compared_with
        return {
            "sweep": self.name,
            "target": str(self.target),
            "minimize": self.minimize,
            "energy_source": self.energy_source,
            "trials": [row.to_dict() for row in self.rows],
            "best": None if self.best is None else self.best.to_dict(),
            "reached": len(self.reached),
            "spread": self.spread,
            "search_cost": self.search_cost,
            "compared_with": compared,
            "compared_with_cost": cost,
            "pays_back_after": self.pays_back_after,
            "importance": dict(self.importance),
            "front": [{"joules": joules, "value": value, "trial": number} for joules, value, number in self.front()],
            "probes": dict(self.probes),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the tables."""
        from ecograph.sweeps.table import render

        yield from render(self)


def read(study: optuna.Study, space: Space, target: Target, minimize: str, start: Values | None = None) -> Sweep:
    """Returns what a study holds.

    Args:
        study: of a search, also one that still runs.
        space: that it searches.
        target: what is to be reached.
        minimize: quantity.
        start: the setting to compare with.
    """
    with studies.quiet_optuna():
        trials = studies.finished(study)
        repeats: dict[tuple[int, bool], list[Attempt]] = {}
        for trial in trials:
            if REPEAT_OF in trial.user_attrs:
                key = trial.user_attrs[REPEAT_OF], CONFIRMS in trial.user_attrs
                repeats.setdefault(key, []).append(_attempt(trial))
        rows = [
            Row(
                trial.number,
                space.values(trial.params),
                _attempt(trial),
                tuple(repeats.get((trial.number, False), ())),
                minimize,
                tuple(repeats.get((trial.number, True), ())),
            )
            for trial in trials
            if REPEAT_OF not in trial.user_attrs
        ]
        return Sweep(
            study.study_name, target, minimize, rows, study.user_attrs.get(PROBES, {}), _importance(study), start
        )


def _attempt(trial: FrozenTrial) -> Attempt:
    return Attempt.from_dict(trial.user_attrs[ATTEMPT])


def _importance(study: optuna.Study) -> dict[str, float]:
    """Returns the importance of the parameters that all trials have; none where too few trials reached the target."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST or len({trial.value for trial in done}) < 2:
        return {}
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(evaluate_on_local=False)
        )
    except (ValueError, RuntimeError):  # no parameter varies among them
        return {}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _json(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) or value is None else label(value)
