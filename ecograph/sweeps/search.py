"""A worker of a search: takes settings from the study, trains them, writes down what became of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ecograph.sweeps import study as studies
from ecograph.sweeps.attempt import (
    FAILED,
    NOT_REACHED,
    PRUNED,
    REACHED,
    TOO_DEAR,
    Attempt,
    Stopped,
    attempt,
    cost_of,
)
from ecograph.sweeps.problem import Problem
from ecograph.sweeps.space import Values, label
from ecograph.sweeps.study import AGAIN, ATTEMPT, CONFIRMS, REPEAT_OF, SEED, SURPLUS, WORKER
from ecograph.sweeps.target import Target

#: Told of each trial that has ended: number, setting, what became of it.
Tell = Callable[[int, Values, Attempt], None]
#: So many trials in a row that cannot be trained, none before them that could: then it is no matter of settings.
ALL_FAIL = 3


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Attributes:
        trials: settings to try; repeats of the best are not among them.
        seconds: of wall time, of each worker; None for any.
        joules: of all trials together; None for any.
    """

    trials: int = 30
    seconds: float | None = None
    joules: float | None = None

    @classmethod
    def parse(cls, given: Any) -> Budget:
        """Returns the budget that a number of trials, or a mapping of several limits, stands for.

        Raises:
            ValueError: for anything else.
        """
        if isinstance(given, Budget):
            return given
        limits = dict(given) if isinstance(given, Mapping) else {"trials": given}
        for name, value in limits.items():
            if name not in cls.__dataclass_fields__:
                raise ValueError(f"budget has no {name!r}: give {', '.join(cls.__dataclass_fields__)}")
            whole = name == "trials"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value > 0:
                kind = "a whole number, 1 or more" if whole else "a number above 0"
                raise ValueError(f"budget={given!r}: give {name} as {kind}, such as budget=30")
        return cls(**limits)


@dataclass(frozen=True)
class Plan:
    """How a search goes about it.

    Attributes:
        target: what is to be reached.
        minimize: quantity.
        budget: when it ends.
        seed: of trainings; repeats have those that follow.
        give_up: a trial that has cost so many times the best is stopped: it can only be worse.
        finalists: when the search has ended, the best setting is repeated; so many may have to be, until one keeps up.
        repeats: how often, each from another seed; and what is left, as often again, for what it promises.
    """

    target: Target
    minimize: str
    budget: Budget
    seed: int = 0
    give_up: float = 6.0
    finalists: int = 4
    repeats: int = 4


def work(
    problem: Problem, study: optuna.Study, plan: Plan, *, tell: Tell = lambda number, values, became: None
) -> None:
    """Tries settings until the budget is spent, then repeats the best ones.

    Raises:
        ValueError: where none of the first settings can be trained, with what was wrong.
    """
    started = time.monotonic()
    with studies.quiet_optuna():
        _begin(problem, study)
        while not _is_spent(study, plan, time.monotonic() - started):
            _one(problem, study, plan, tell)
            studies.take_up_lost(study)
        studies.take_up_lost(study)
        while _waiting(study) or _repeat_the_best(study, plan):
            _one(problem, study, plan, tell)


def _begin(problem: Problem, study: optuna.Study) -> None:
    """Puts the setting to compare with in front, once, and takes up what others have lost."""
    if problem.start is not None and not study.get_trials(deepcopy=False):
        params = problem.space.params(problem.start)
        if params is not None:
            study.enqueue_trial(params)
    studies.take_up_lost(study)


def _is_spent(study: optuna.Study, plan: Plan, seconds: float) -> bool:
    trials = study.get_trials(deepcopy=False)
    begun = [t for t in trials if ATTEMPT in t.user_attrs or t.state == TrialState.RUNNING]
    if sum(REPEAT_OF not in t.user_attrs for t in begun) >= plan.budget.trials:
        return True
    if plan.budget.seconds is not None and seconds >= plan.budget.seconds:
        return True
    spent = sum(t.user_attrs[ATTEMPT]["spent"].get("energy") or 0.0 for t in trials if ATTEMPT in t.user_attrs)
    return plan.budget.joules is not None and spent >= plan.budget.joules


def _waiting(study: optuna.Study) -> bool:
    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _one(problem: Problem, study: optuna.Study, plan: Plan, tell: Tell) -> None:
    """Takes one setting and trains it."""

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr(WORKER, studies.this_worker())
        if studies.is_surplus(study, trial.number, plan.budget.trials):
            trial.set_user_attr(SURPLUS, True)
            raise optuna.TrialPruned("surplus")
        values = problem.space.suggest(trial)
        repeat = REPEAT_OF in trial.user_attrs
        seed = trial.user_attrs.get(SEED, plan.seed)
        best = math.inf if repeat else _best(study)

        def watch(epochs: int, value: float, cost: Mapping[str, float | None]) -> None:
            if repeat:
                return
            trial.report(plan.target.shortfall(value), epochs)
            spent = cost.get(plan.minimize)
            if spent is not None and spent > plan.give_up * best:
                raise Stopped(TOO_DEAR)
            if trial.should_prune():
                raise Stopped(PRUNED)

        try:
            became = attempt(problem, values, seed=seed, target=plan.target, minimize=plan.minimize, tell=watch)
        except Exception as error:  # whatever a setting may be wrong with; a search that runs all night goes on
            became = Attempt(FAILED, seed, reason=f"{type(error).__name__}: {error}"[:500])
            trial.set_user_attr(ATTEMPT, became.to_dict())
            if not repeat and _all_fail(study, trial.number):
                raise
        cost = became.cost.get(plan.minimize)
        if became.outcome == REACHED and cost is None:
            raise ValueError(
                f"the {plan.minimize} of a training is not known on this machine: ecograph doctor says why; "
                "minimize='time' needs no meter"
            )
        trial.set_user_attr(ATTEMPT, became.to_dict())
        tell(trial.number, values, became)
        if became.outcome != REACHED:
            if became.outcome == NOT_REACHED and became.best is not None:
                # All at the same step, so that it is the shortfall by which they are told apart.
                trial.report(plan.target.shortfall(became.best), 10**6)
            raise optuna.TrialPruned(became.outcome)
        assert cost is not None
        return cost

    # Whoever sleeps for long is taken for dead, and finds on waking that others have taken up the trial.
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        study.optimize(objective, n_trials=1)


def _best(study: optuna.Study) -> float:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min((trial.value for trial in done if trial.value is not None), default=math.inf)


def _all_fail(study: optuna.Study, number: int) -> bool:
    """Whether this is one of the first trials, and none before it could be trained."""
    others = [each.user_attrs[ATTEMPT]["outcome"] for each in studies.finished(study)]
    return len(others) + 1 >= ALL_FAIL and all(outcome == FAILED for outcome in others)


def _repeat_the_best(study: optuna.Study, plan: Plan) -> bool:
    """Has a setting trained once more, from another seed, where that is still to be done.

    Of many settings the best is in part the luckiest. So the one that looks best is repeated, until it was trained
    often enough; one whose luck does not last falls back behind the next. What is left has been chosen by the very
    figures that speak for it. So it is trained as often again, from fresh seeds, and these alone are what it promises;
    where they make it dearer than the next, that one is repeated and confirmed in its place.
    The last worker does it; one that finds others at work leaves it to them.

    Returns:
        Whether there is something to train.
    """
    trials = study.get_trials(deepcopy=False)
    if plan.finalists * plan.repeats < 1 or any(trial.state == TrialState.RUNNING for trial in trials):
        return False
    found = candidates(studies.finished(study), plan.minimize)
    done = {trial.number: trial for trial in trials if trial.state == TrialState.COMPLETE}
    racing = [each for each in found if each.number in done and not each.refuted(plan.repeats)]
    if not racing:
        return False
    best = min(racing, key=lambda each: each.cost)
    repeated = sum(len(each.repeats) for each in found)
    if repeated >= plan.finalists * plan.repeats and not best.repeats:
        return False  # so many looked better than they were
    attributes: dict[str, Any] = {REPEAT_OF: best.number, AGAIN: None}
    if len(best.repeats) >= plan.repeats:
        if len(best.confirmations) >= plan.repeats:
            return False
        attributes |= {CONFIRMS: True, SEED: plan.seed + 1 + plan.repeats + len(best.confirmations)}
    else:
        attributes[SEED] = plan.seed + 1 + len(best.repeats)
    study.enqueue_trial(done[best.number].params, user_attrs=attributes)
    return True


@dataclass(frozen=True)
class Candidate:
    """A setting that reached the target in the search, with all that it was trained since.

    Attributes:
        number: of its first trial.
        attempt: of it.
        repeats: which decide between candidates.
        confirmations: from fresh seeds, once it was chosen.
        minimize: quantity.
    """

    number: int
    attempt: Attempt
    repeats: list[Attempt]
    confirmations: list[Attempt]
    minimize: str

    @property
    def cost(self) -> float:
        """By which candidates are told apart."""
        return cost_of([self.attempt, *self.repeats, *self.confirmations], self.minimize)

    def refuted(self, times: int) -> bool:
        """Whether none of so many confirmations reached the target."""
        return len(self.confirmations) >= times and all(each.outcome != REACHED for each in self.confirmations)


def candidates(trials: Sequence[FrozenTrial], minimize: str) -> list[Candidate]:
    """Returns the settings that reached the target, each once.

    Args:
        trials: that are finished.
        minimize: quantity.
    """
    again: dict[tuple[int, bool], list[Attempt]] = {}
    for trial in trials:
        if (of := trial.user_attrs.get(REPEAT_OF)) is not None:
            key = of, CONFIRMS in trial.user_attrs
            again.setdefault(key, []).append(Attempt.from_dict(trial.user_attrs[ATTEMPT]))
    firsts = [t for t in trials if REPEAT_OF not in t.user_attrs and t.state == TrialState.COMPLETE]
    different: dict[str, Candidate] = {}
    for trial in sorted(firsts, key=lambda t: t.number):
        own = Attempt.from_dict(trial.user_attrs[ATTEMPT])
        made = Candidate(
            trial.number, own, again.get((trial.number, False), []), again.get((trial.number, True), []), minimize
        )
        different.setdefault(label(sorted(trial.params.items())), made)
    return list(different.values())
