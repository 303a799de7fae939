"""What a training takes: from short trainings that take turns, so that a machine that drifts drifts for all of them.

The trainings whose quality counts run for hours, side by side, on a machine that may do other things: their CPU seconds
tell more of the hour than of the way. So every way is trained again, over as many epochs of a few steps, with its
schedule and the epochs it skips; one way after the other, round after round. What a way takes is the median over the
rounds of its ratio to dense training in the same round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from tasks.sizes import make_task
from tasks.task import Task
from tasks.ways import DENSE, WAYS, train, warm_up

#: Steps of a short training: the first one, which sets up the optimizer, must not weigh much.
STEPS = 40
QUANTITIES = ("cpu_seconds", "joules")


def costs(
    name: str, size: str, ways: Sequence[str], rounds: int, tell: Callable[[str], None] = lambda way: None
) -> dict[str, dict[str, Any]]:
    """Returns what the whole training of each way takes.

    Args:
        name: of the task.
        size: of the task.
        ways: to be measured; dense training is.
        rounds: in which each has a turn; each round begins with another.
        tell: told of each turn.
    """
    task = make_task(name, size)
    each = list(dict.fromkeys((DENSE, *ways)))
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in each}
    for way in each:
        warm_up(name, size, way)
    for number in range(rounds):
        first = number % len(each)
        for way in each[first:] + each[:first]:
            tell(way)
            found[way].append(_whole(task, way, number))
    return {way: _figures(taken, found[DENSE]) for way, taken in found.items()}


def _whole(task: Task, way: str, seed: int) -> dict[str, Any]:
    """Returns what a training takes, as far as a short one tells: what belongs to epochs is taken as it is."""
    steps = min(task.steps_per_epoch, math.ceil(STEPS / task.epochs))
    short = replace(task, steps_per_epoch=steps)
    used = train(short, WAYS[way], seed, short.steps, evaluate=False)
    aside = used["cpu_seconds_aside"] / used["cpu_seconds"]
    times = aside + (1 - aside) * task.steps_per_epoch / steps
    known = {kind: None if used[kind] is None else times * used[kind] for kind in QUANTITIES}
    return {**known, "energy_source": used["energy_source"]}


def _figures(taken: Sequence[dict[str, Any]], dense: Sequence[dict[str, Any]]) -> dict[str, Any]:
    figures: dict[str, Any] = {"energy_source": taken[0]["energy_source"], "rounds": len(taken)}
    for kind in QUANTITIES:
        if any(each[kind] is None for each in (*taken, *dense)):
            figures[kind] = None
            continue
        ratios = [a[kind] / b[kind] for a, b in zip(taken, dense, strict=True)]
        figures[kind] = median(ratios) * median(each[kind] for each in dense)
        figures[f"{kind}_to_dense"] = ratios
    return figures
