"""A worker of a search: takes settings from the study, trains them, writes down what became of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

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
from ecograph.sweeps.study import AGAIN, ATTEMPT, REPEAT_OF, SEED, WORKER
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
        repeats: how often, each from another seed.
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
        values = problem.space.suggest(trial)
        repeat = REPEAT_OF in trial.user_attrs
        seed = trial.user_attrs.get(SEED, plan.seed)
        best = math.inf if repeat else _best(study)

        def watch(epochs: int, value: float, joules: float | None, seconds: float) -> None:
            if repeat:
                return
            trial.report(plan.target.shortfall(value), epochs)
            spent = _in_units(problem, plan, joules, seconds)
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

    study.optimize(objective, n_trials=1)


def _in_units(problem: Problem, plan: Plan, joules: float | None, seconds: float) -> float | None:
    """Returns what was spent of what is minimized; None where that is not known yet."""
    if plan.minimize == "time":
        return seconds
    if plan.minimize == "flops" or joules is None:
        return None
    if plan.minimize == "energy":
        return joules
    comes_to = problem.footprint(joules)
    return comes_to.co2_grams if plan.minimize == "co2" else comes_to.cost


def _best(study: optuna.Study) -> float:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min((trial.value for trial in done if trial.value is not None), default=math.inf)


def _all_fail(study: optuna.Study, number: int) -> bool:
    """Whether this is one of the first trials, and none before it could be trained."""
    others = [each.user_attrs[ATTEMPT]["outcome"] for each in studies.finished(study)]
    return len(others) + 1 >= ALL_FAIL and all(outcome == FAILED for outcome in others)


def _repeat_the_best(study: optuna.Study, plan: Plan) -> bool:
    """Has the setting that looks best trained once more, from another seed, until it was trained often enough.

    Of many settings the best is in part the luckiest. One whose luck does not last falls back behind the next.
    The last worker does it; one that finds others at work leaves it to them.

    Returns:
        Whether there is something to train.
    """
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.RUNNING for trial in trials):
        return False
    repeats: dict[int, list[Attempt]] = {}
    for trial in studies.finished(study):
        if REPEAT_OF in trial.user_attrs:
            found = Attempt.from_dict(trial.user_attrs[ATTEMPT])
            repeats.setdefault(trial.user_attrs[REPEAT_OF], []).append(found)
    if sum(map(len, repeats.values())) >= plan.finalists * plan.repeats:
        return False
    done = [t for t in trials if t.state == TrialState.COMPLETE and REPEAT_OF not in t.user_attrs]
    different: dict[str, Any] = {}
    for trial in sorted(done, key=lambda t: t.number):
        different.setdefault(label(sorted(trial.params.items())), trial)

    def cost(trial: Any) -> float:
        own = Attempt.from_dict(trial.user_attrs[ATTEMPT])
        return cost_of([own, *repeats.get(trial.number, [])], plan.minimize)

    best = min(different.values(), key=cost, default=None)
    if best is None or len(repeats.get(best.number, [])) >= plan.repeats:
        return False
    count = len(repeats.get(best.number, []))
    study.enqueue_trial(best.params, user_attrs={REPEAT_OF: best.number, SEED: plan.seed + 1 + count, AGAIN: None})
    return True
