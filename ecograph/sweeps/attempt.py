"""One training of a search: until the target is reached, or until it is clear that it will not be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ecograph.cost.footprint import Footprint
from ecograph.cost.meter import Window
from ecograph.loop import Callback, EpochRecord, NonFiniteLossError
from ecograph.sweeps.apart import Apart
from ecograph.sweeps.memory import OutOfMemory, check_fits, is_out_of_memory
from ecograph.sweeps.problem import Problem, Training
from ecograph.sweeps.space import Values
from ecograph.sweeps.target import Target

REACHED, NOT_REACHED = "reached", "not reached"
PRUNED, TOO_DEAR, DIVERGED = "pruned", "too dear", "diverged"
INFEASIBLE, FAILED = "infeasible", "failed"


#: Told of epochs so far, the value, and what was spent so far, by quantity; may raise :class:`Stopped`.
Tell = Callable[[int, float, Mapping[str, float | None]], None]


class Stopped(Exception):  # noqa: N818 - it is no error
    """Ends a training from within; its text is one of the outcomes."""


@dataclass
class Attempt:
    """What became of a training.

    Attributes:
        outcome: one of the words above.
        reason: why it could not be trained.
        cost: quantity -> what was spent in the epochs until the target was reached, or until the end.
        spent: quantity -> all that it took, with preparations: the search's cost.
        energy_source: how the joules are known.
        best: the best value of the target's metric.
        epochs: that were trained or skipped.
        curve: after each epoch, the joules and seconds so far, and the metric.
        seed: of weights, data and all else.
    """

    outcome: str
    seed: int
    reason: str = ""
    cost: dict[str, float | None] = field(default_factory=dict)
    spent: dict[str, float | None] = field(default_factory=dict)
    energy_source: str = "none"
    best: float | None = None
    epochs: int = 0
    curve: list[list[float | None]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Attempt:
        """Returns what :meth:`to_dict` gave."""
        return cls(**data)


def cost_of(attempts: Sequence[Attempt], minimize: str) -> float:
    """Returns what it costs to reach the target once, with the attempts that did not reach it paid for, too.

    Args:
        attempts: of one setting, from several seeds.
        minimize: quantity.
    """
    reached = sum(each.outcome == REACHED for each in attempts)
    return sum(each.cost.get(minimize) or 0.0 for each in attempts) / reached if reached else math.inf


class Watch(Callback):
    """Follows a training epoch by epoch.

    Args:
        target: what is to be reached.
        tell: told of each epoch with a value: the epochs so far, the value, and what was spent so far, by quantity;
            may raise :class:`Stopped`.
        footprint: of joules.
    """

    #: Of the epoch that begins; None where nobody asked.
    flops: Callable[[], float] | None = None

    def __init__(self, target: Target, tell: Tell, footprint: Callable[[float], Footprint]) -> None:
        self.target = target
        self.best: float | None = None
        self.curve: list[list[float | None]] = []
        self.epochs = 0
        self._tell = tell
        self._footprint = footprint
        self._joules: float | None = 0.0
        self._seconds = 0.0
        self._flops = 0.0
        self.sources: dict[str, None] = {}

    def on_epoch_start(self, epoch: int, model: nn.Module) -> None:
        """Counts what the epoch will take."""
        if self.flops is not None:
            self._flops += self.flops()

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        """Remembers the epoch, and stops the training where the search says so."""
        self.epochs += 1
        self._seconds += record.seconds
        if record.joules is not None and self._joules is not None:
            self._joules += record.joules
            self.sources |= dict.fromkeys(record.energy_source.split(" + "))
        elif record.note == "":  # an epoch that is skipped is too short for a meter, and takes next to nothing
            self._joules = None
        value = record.to_dict().get(self.target.name)
        if not isinstance(value, (int, float)):
            return
        if self.target.better(float(value), self.best):
            self.best = float(value)
        self.curve.append([self._joules, self._seconds, float(value)])
        if not self.target.reached(float(value)):
            self._tell(self.epochs, float(value), self.cost)

    @property
    def cost(self) -> dict[str, float | None]:
        """What all epochs took, by quantity."""
        known: dict[str, float | None] = {"time": self._seconds, "energy": self._joules if self.epochs else None}
        if self.flops is not None:
            known["flops"] = self._flops
        return _quantities(self._footprint, known)


def attempt(
    problem: Problem,
    values: Values,
    *,
    seed: int,
    target: Target,
    minimize: str,
    tell: Tell = lambda epochs, value, cost: None,
) -> Attempt:
    """Trains a setting until the target is reached.

    Args:
        problem: what is searched.
        values: the setting.
        seed: of the training.
        target: see ``Watch``.
        minimize: quantity, so that FLOPs are counted only where they are asked for.
        tell: see ``Watch``.

    Raises:
        Exception: whatever the user's code raises, other than for want of memory.
    """
    window, watch = Window(), Watch(target, tell, problem.footprint)
    outcome, reason = NOT_REACHED, ""
    try:
        training = problem.training(values, seed=seed, stop=str(target), callbacks=[watch])
        check_fits(training)
        if minimize == "flops":
            watch.flops = _flops_per_epoch(training)
        training.loop.run(*training.arguments)
        if any(target.reached(value) for *_, value in watch.curve):
            outcome = REACHED
    except Stopped as stopped:
        outcome = str(stopped)
    except NonFiniteLossError as error:
        outcome, reason = DIVERGED, str(error).partition(":")[0]
    except OutOfMemory as error:
        outcome, reason = INFEASIBLE, str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        outcome, reason = INFEASIBLE, "out of memory: " + str(error).splitlines()[0][:200]
    if outcome == INFEASIBLE and torch.cuda.is_available():
        torch.cuda.empty_cache()
    used = window.finish()
    return Attempt(
        outcome=outcome,
        seed=seed,
        reason=reason,
        cost=watch.cost,
        spent=_quantities(problem.footprint, {"time": used.seconds, "energy": used.joules}),
        energy_source=" + ".join(watch.sources) or used.source,
        best=watch.best,
        epochs=watch.epochs,
        curve=watch.curve,
    )


def _quantities(footprint: Callable[[float], Footprint], known: Mapping[str, float | None]) -> dict[str, float | None]:
    """Returns all quantities that follow from those that are known."""
    joules = known.get("energy")
    found: dict[str, float | None] = dict(known)
    if joules is not None:
        comes_to = footprint(joules)
        found |= {"co2": comes_to.co2_grams, "money": comes_to.cost}
    return found


def _flops_per_epoch(training: Training) -> Callable[[], float]:
    """Returns what tells the FLOPs of an epoch, on average over the planned ones, those that are skipped included."""
    model = training.arguments[0]
    if not isinstance(model, Apart):
        whole = _flops(training)
        return lambda: whole
    alone = {}
    for name in model.models:
        with model.alone(name):
            alone[name] = _flops(training)
    return lambda: sum(each for name, each in alone.items() if name not in model.resting)


def _flops(training: Training) -> float:
    from ecograph.cost.estimate import estimate, plan_run, skipped_epochs
    from ecograph.loop.first_batch import first_inputs

    model, optimizer, _, loader = training.arguments[:4]
    loop = training.loop
    step = estimate(model, first_inputs(loader), device="generic-cpu", optimizer=optimizer, amp=loop.amp)
    skipped = len(skipped_epochs(loop.passes, loop.epochs))
    run = plan_run(step, epochs=loop.epochs, batches_per_epoch=len(loader), accumulate=loop.accumulate, skipped=skipped)
    return run.after.flops / loop.epochs
