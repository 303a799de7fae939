"""The front door: search for the setting that reaches a target for the least."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ecograph.capture.quiet import untouched_random_state
from ecograph.errors import NeverReachedWarning
from ecograph.loop.stop import Stop
from ecograph.sweeps import study as studies
from ecograph.sweeps.attempt import REACHED, Attempt
from ecograph.sweeps.functions import Functions, active
from ecograph.sweeps.multitask import TRUNK, MultiTask
from ecograph.sweeps.probe import probe
from ecograph.sweeps.problem import Problem
from ecograph.sweeps.result import Sweep, read
from ecograph.sweeps.search import Budget, Plan, Tell, work
from ecograph.sweeps.shown import Say, shown
from ecograph.sweeps.space import Choice, Range, Values, parse_space, plain
from ecograph.sweeps.study import PROBES
from ecograph.sweeps.tally import Targets
from ecograph.sweeps.target import Target, check_quantity


def sweep(
    make_model: Callable[..., nn.Module],
    make_loaders: Callable[..., Any],
    *,
    target: str | Mapping[str, str],
    space: Mapping[str, Any],
    budget: int | Mapping[str, float] | Budget = 30,
    minimize: str = "energy",
    loss_fn: Callable[..., Any] = nn.functional.cross_entropy,
    metric: Any = "accuracy",
    fixed: Mapping[str, Any] | None = None,
    storage: Any = None,
    name: str = "sweep",
    resume: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    probes: bool = True,
    prune: bool = True,
    give_up: float = 6.0,
    finalists: int = 4,
    repeats: int = 4,
    grid: float | None = None,
    price: float | None = None,
    currency: str = "",
    progress: bool = True,
) -> Sweep:
    """Searches for the setting whose training reaches a target for the least energy, time, FLOPs, CO2 or money.

    Source: The Power of Training (arXiv 2401.01851), which found factors of up to 5 between settings.

    Args:
        make_model: returns a model. It is given those values of the setting that it has a parameter for.
        make_loaders: returns ``(train_loader, val_loader)``; likewise, such as ``make_loaders(batch_size)``.
        target: of a value of the loop's history, such as ``"val_accuracy >= 0.97"``. Or several, by task:
            ``{"digit": "val_accuracy >= 0.97", "ink": "val_loss <= 0.1"}``, all of which are to be reached. Then
            ``make_model`` has a parameter ``tasks``: given the names of some, it returns a model that returns a dict
            with an output for each. Batches are ``(inputs, targets)``, the targets a dict by task. The space gets a
            dimension more, ``trunk``: ``"separate"``, a model for each task, which rests once its target is reached;
            or ``"shared"``, one model for all.
        space: what may vary: name -> a list of values, ``ecograph.sweeps.Range(1e-3, 1.0, log=True)``, or the same as a
            dict. Names are parameters of the two functions, and ``lr``, ``epochs`` (with the schedule stretched over
            them), ``optimizer``, ``momentum``, ``weight_decay``, ``schedule``, ``amp``, ``clip``, ``channels_last`` and
            ``passes`` (names, passes, or tuples of passes). ``"lr@sgd"`` is the learning rate where the optimizer is
            sgd.
        budget: settings to try; or a dict of limits: ``{"trials": 30, "seconds": 3600, "joules": 1e6}``.
        minimize: ``"energy"``, ``"time"``, ``"flops"``, ``"co2"`` or ``"money"``.
        loss_fn: of (outputs, targets); for several targets, one for all or a dict by task, and their sum is trained.
        metric: as ``TrainingLoop`` takes it; likewise.
        fixed: values of what does not vary, in place of the defaults.
        storage: of optuna, or its URL, or a file of SQLite; None keeps the search in memory. With a storage the search
            can be stopped at any time and gone on with, and shared by workers that were started on the same one.
        name: of the study in the storage.
        resume: go on with, or join, a search that is there.
        seed: of trainings and of the search.
        device: to train on.
        probes: look at batch sizes and learning rates first.
        prune: stop trainings that fall behind (Hyperband).
        give_up: stop a training that has cost so many times the best.
        finalists: when the search has ended, the best setting is trained again from other seeds. Where its luck does
            not last, the next best takes its place: so many at most.
        repeats: how often. The one that is left is trained as often again, from seeds that had no part in the choice:
            the mean of these is what it promises.
        grid: grams of CO2 per kWh; None for the world's average.
        price: of a kWh, for ``minimize="money"``.
        currency: of the price.
        progress: show what is going on, on a terminal.

    Returns:
        The outcome: ``result.best.values`` is the setting; ``rich.print(result)`` shows tables.

    Raises:
        ValueError: for a mistake of the user's; the message names the argument and the fix.

    Warns:
        NeverReachedWarning: where no setting reached the target.
    """
    kind: Callable[..., Functions] = Functions
    wanted: Target = Targets.of(target) if isinstance(target, Mapping) else Target.parse(target)
    if isinstance(wanted, Targets):
        kind = partial(MultiTask, targets=wanted)
        if isinstance(space, Mapping) and "trunk" not in (fixed or {}):
            space = {**TRUNK, **space}
    problem = kind(
        make_model,
        make_loaders,
        parse_space(space, active),
        loss_fn,
        metric,
        dict(fixed or {}),
        torch.device(device),
        grid,
        price,
        currency,
    )
    if minimize == "money" and price is None:
        raise ValueError("minimize='money' needs the price of a kWh: give price=0.30")
    plan = Plan(wanted, check_quantity(minimize), Budget.parse(budget), seed, give_up, finalists, repeats)
    from rich.console import Console

    console = Console(stderr=True, highlight=False) if progress else None
    with shown(console) as say, untouched_random_state(nn.Identity()):
        return run(problem, plan, storage=storage, name=name, resume=resume, probes=probes, prune=prune, say=say)


def run(
    problem: Problem,
    plan: Plan,
    *,
    storage: Any = None,
    name: str = "sweep",
    resume: bool = False,
    probes: bool = True,
    prune: bool = True,
    say: Say = lambda text: None,
    tell: Tell | None = None,
) -> Sweep:
    """Searches a problem: opens the study, probes, works until the budget is spent, and reads what came of it.

    Args:
        problem: what is searched.
        plan: how.
        storage: as ``sweep`` takes it.
        name: of the study.
        resume: go on with a study that is there.
        probes: whether to look first.
        prune: whether to stop what falls behind.
        say: told what is going on.
        tell: told of each trial.

    Raises:
        ValueError: as ``sweep``.
    """
    with studies.quiet_optuna():
        opened = studies.open_storage(storage)
        definition = {
            **problem.definition(),
            "target": str(plan.target),
            "minimize": plan.minimize,
            "seed": plan.seed,
        }
        _check_target(problem, plan)
        study = studies.open_study(
            opened, name, definition, resume=resume, seed=plan.seed, epochs=_most_epochs(problem), prune=prune
        )
        if probes and PROBES not in study.user_attrs and (base := _some_setting(problem)) is not None:
            study.set_user_attr(PROBES, {})  # other workers need not look, too
            study.set_user_attr(PROBES, _probe(problem, base, plan.seed, say))
        done = len([t for t in studies.finished(study) if studies.REPEAT_OF not in t.user_attrs])
        say(f"{done} of {plan.budget.trials} trials done")

        def told(number: int, values: Values, became: Attempt) -> None:
            from ecograph.sweeps.table import amount, setting

            cost = amount(became.cost.get(plan.minimize), plan.minimize)
            cost = cost if became.outcome == REACHED else became.outcome
            say(f"trial {number}: {cost} ({setting(values)})")
            if tell is not None:
                tell(number, values, became)

        work(problem, study, plan, tell=told)
        found = read(study, problem.space, plan.target, plan.minimize, problem.start)
    if not found.reached:
        values = [row.attempt.best for row in found.rows if row.attempt.best is not None]
        near = min(values, key=plan.target.shortfall, default=None)
        came = "" if near is None else f" (the nearest came to {near:.4g})"
        warnings.warn(
            f"no setting reached {plan.target}{came}: lower the target, allow more epochs, or widen the space",
            NeverReachedWarning,
            stacklevel=3,
        )
    return found


def _probe(problem: Problem, values: Values, seed: int, say: Say) -> dict[str, Any]:
    """Returns what probes saw; where they fail, that they did: it is no reason not to search."""
    try:
        return probe(problem, values, seed=seed, tell=say)
    except Exception as error:  # of the user's code, or for want of memory
        return {"warnings": [f"the probes failed: {type(error).__name__}: {error}"[:300]]}


def _check_target(problem: Problem, plan: Plan) -> None:
    """Makes a training once, so that what is wrong with the functions or the target is said at once."""
    base = _some_setting(problem)
    if base is None:
        return
    try:
        training = problem.training(base, seed=plan.seed, stop=None, callbacks=())
    except Exception:  # this setting cannot be trained; others may, and the trials will tell
        return
    Stop.parse(plan.target.comparison, training.loop.program.recorded)


def _some_setting(problem: Problem) -> Values | None:
    """Returns the setting to begin with; where there is none, one from the middle of the space."""
    if problem.start is not None and problem.space.params(problem.start) is not None:
        return problem.start
    found: Values = {}
    for name, parameter in problem.space.parameters.items():
        if problem.space.active(name, found):
            if isinstance(parameter, Choice):
                found[plain(name)] = parameter.values[len(parameter.values) // 2]
            else:
                found[plain(name)] = _middle(parameter)
    return found


def _middle(parameter: Range) -> float:
    low, high = parameter.low, parameter.high
    middle = (low * high) ** 0.5 if parameter.log else (low + high) / 2
    return round(middle) if isinstance(low, int) and isinstance(high, int) else middle


def _most_epochs(problem: Problem) -> int:
    """Returns the most epochs that a setting may have, as far as the space tells."""
    for name, parameter in problem.space.parameters.items():
        if plain(name).rpartition(".")[2] == "epochs":
            most = max(parameter.values) if isinstance(parameter, Choice) else parameter.high
            return int(most)
    base = _some_setting(problem)
    if base is None:
        return 100
    try:
        return problem.training(base, seed=0, stop=None, callbacks=()).loop.epochs
    except ValueError:
        return 100
