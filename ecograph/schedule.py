"""How strongly a pass acts, over the course of training.

Every pass whose strength varies shares one :class:`Rate` with the layers it rewrote. A :class:`Scheduler` sets it, by
epoch or by iteration; where there is none, the rate ticks by itself with every training forward of the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ecograph.record import records

#: value of a rate -> share of the training's steps at which it is in force
Mix = dict[float, float]

#: Iterations after which a schedule that runs by iteration starts again.
PERIOD = 10


def _alternate(position: int, length: int) -> float:
    return float(position % 2)


def _constant(position: int, length: int) -> float:
    return 1.0


def _linear(position: int, length: int) -> float:
    return position / max(length - 1, 1)


def _cosine(position: int, length: int) -> float:
    return (1 - math.cos(math.pi * position / max(length - 1, 1))) / 2


def _bar(position: int, length: int) -> float:
    return float(position >= length / 2)


#: name -> the share of the full rate at a position among ``length`` positions.
SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "alternate": _alternate,
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "bar": _bar,
}


class Rate:
    """The rate at which a pass acts at this moment, shared by all the layers it rewrote.

    A compiler specializes on what it reads here. So the state of a schedule that knows two rates, dense and peak, is
    one bool: two compilations. A gradual schedule is compiled once for each of its rates; where it ticks by itself,
    also "bar" once for each position in its round.

    Attributes:
        peak: the rate at full strength, such as the drop of a sparse backward.
        schedule: one of ``SCHEDULES``.
        scheduled: whether a Scheduler sets it. If not, it ticks by itself.
    """

    def __init__(self, peak: float, schedule: str) -> None:
        self.peak = peak
        self.schedule = schedule
        self.scheduled = False
        # One round of the schedule by iteration. It starts at its end, so that the first tick brings its first value.
        length = {"alternate": 2, "constant": 1}.get(schedule, PERIOD)
        self._round = tuple(self.at(i, length) for i in range(length))
        self._position = length - 1
        self._on = True
        self._value = peak
        self.set(self._round[-1])

    @property
    def now(self) -> float:
        """The rate in force; 0 is dense."""
        return self._value if self._on else 0.0

    def set(self, rate: float) -> None:
        """Puts ``rate`` in force."""
        self._on = rate != 0
        if rate != 0 and rate != self._value:
            self._value = rate

    def at(self, position: int, length: int) -> float:
        """Returns the rate at ``position`` (from 0) among ``length`` epochs or iterations."""
        return self.peak * SCHEDULES[self.schedule](position, length)

    def tick(self) -> None:
        """Moves on by one training forward."""
        if len(self._round) == 2:
            self._on = not self._on
        elif len(self._round) > 2:
            self._position = (self._position + 1) % len(self._round)
            self.set(self._round[self._position])

    def state_dict(self) -> dict[str, Any]:
        """Returns where it is, as numbers; for what ticks by itself, and for what its passes add."""
        return {"on": self._on, "value": self._value, "position": self._position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken."""
        self._on, self._value, self._position = state["on"], state["value"], state["position"]

    def close(self) -> None:
        """Told when the model is restored."""

    def without_data(self) -> None:
        """Told that the model, a copy, holds no data from now on: what a pass would look up, it must make up."""

    def move_to(self, step: int) -> None:
        """Goes to an optimizer step of a Scheduler's plan; for passes whose steps differ by more than the rate."""

    @property
    def mix(self) -> Mix:
        """The share of steps at each rate over one round, for a training that has no Scheduler."""
        return _mix(self._round)


def _mix(values: Sequence[float]) -> Mix:
    return {value: count / len(values) for value, count in Counter(values).items()}


class Ticker:
    """A forward pre-hook of the model that ticks its rates while no Scheduler sets them."""

    def __init__(self, rates: list[Rate]) -> None:
        self.rates = rates

    def __call__(self, module: nn.Module, args: Any) -> None:
        """Ticks once per training forward, and not when activation checkpointing runs a forward again."""
        if not module.training or not torch.is_grad_enabled():
            return
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return
        for rate in self.rates:
            if not rate.scheduled:
                rate.tick()


class Scheduler:
    """Sets the rate of every pass on a model over the planned training, like a learning-rate scheduler.

    Call :meth:`step` after every optimizer step. The first step of training is already set when the scheduler is made.

    Args:
        model: an optimized model, also inside DDP or ``torch.compile``; or an :class:`~ecograph.export.OrtTrainer`.
        epochs: planned epochs.
        steps_per_epoch: optimizer steps per epoch, usually ``len(loader)``.
        by: ``"epoch"``: the rate changes between epochs, over all the planned ones. ``"iteration"``: it changes between
            steps, and starts again after ``period`` of them.
        period: steps in one round of a schedule by iteration (ssProp's T).
        warmup: epochs at the start that stay dense.
        tail: epochs at the end that stay dense.

    Raises:
        ValueError: where the model was not optimized, or an argument makes no sense.

    Example:
        >>> scheduler = ecograph.Scheduler(model, epochs=30, steps_per_epoch=len(loader))
        >>> ...
        >>> optimizer.step()
        >>> scheduler.step()
    """

    def __init__(
        self,
        model: Any,
        *,
        epochs: int,
        steps_per_epoch: int,
        by: str = "epoch",
        period: int = PERIOD,
        warmup: int = 0,
        tail: int = 0,
    ) -> None:
        for name, value, least in (
            ("epochs", epochs, 1),
            ("steps_per_epoch", steps_per_epoch, 1),
            ("period", period, 2),
            ("warmup", warmup, 0),
            ("tail", tail, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r}: give a whole number, {least} or more")
        if by not in ("epoch", "iteration"):
            raise ValueError(f"by={by!r}: give 'epoch' or 'iteration'")
        if warmup + tail > epochs:
            raise ValueError(f"warmup={warmup} and tail={tail} are more than epochs={epochs}: make them smaller")
        found = records(model)
        if not found:
            raise ValueError(f"{type(model).__name__} is not optimized: call ecograph.optimize(model) first")
        self._records = found
        self._steps = 0
        self._plan = {
            "epochs": epochs,
            "steps_per_epoch": steps_per_epoch,
            "by": by,
            "period": period,
            "warmup": warmup,
            "tail": tail,
        }
        for record in found:
            for rate in record.rates:
                rate.scheduled = True
        self.announce()
        self._apply()

    @property
    def last_step(self) -> int:
        """Optimizer steps taken so far."""
        return self._steps

    def rate_at(self, rate: Rate, step: int) -> float:
        """Returns the value of ``rate`` at an optimizer step, counted from 0."""
        plan: dict[str, Any] = self._plan
        epoch = min(step // plan["steps_per_epoch"], plan["epochs"] - 1)
        last = plan["epochs"] - plan["tail"]
        if epoch < plan["warmup"] or epoch >= last:
            return 0.0
        if plan["by"] == "epoch":
            return rate.at(epoch - plan["warmup"], last - plan["warmup"])
        since = step - plan["warmup"] * plan["steps_per_epoch"]
        return rate.at(since % plan["period"], plan["period"])

    def mix(self, rate: Rate, *, skipped: Collection[int] = ()) -> Mix:
        """Returns the share of the planned steps at each value of ``rate``.

        Args:
            rate: of a pass.
            skipped: epochs, counted from 0, that are not trained.
        """
        plan: dict[str, Any] = self._plan
        count = plan["steps_per_epoch"]
        steps = range(0, plan["epochs"] * count, count if plan["by"] == "epoch" else 1)
        trained = [step for step in steps if step // count not in skipped]
        return _mix([self.rate_at(rate, step) for step in trained or steps])

    def announce(self, skipped: Collection[int] = ()) -> None:
        """Tells explain and estimates what the plan comes to on average, over the epochs that are trained.

        Args:
            skipped: epochs, counted from 0, that are not.
        """
        for record in self._records:
            record.mixes = [self.mix(rate, skipped=skipped) for rate in record.rates]

    def step(self) -> None:
        """Moves on by one optimizer step."""
        self._steps += 1
        self._apply()

    def skip_epoch(self) -> None:
        """Moves on by an epoch that is not trained, so that the plan stays in step with the epochs."""
        plan: dict[str, Any] = self._plan
        self._steps += plan["steps_per_epoch"]
        self._apply()

    def _apply(self) -> None:
        for record in self._records:
            for rate in record.rates:
                rate.set(self.rate_at(rate, self._steps))
                rate.move_to(self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Returns the plan and how far it has come, as plain numbers and strings."""
        return {"steps": self._steps, **self._plan}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken.

        Raises:
            ValueError: for a state that is not a Scheduler's.
        """
        missing = {"steps", *self._plan} - set(state)
        if missing:
            raise ValueError(f"not the state of an ecograph.Scheduler: {sorted(missing)} missing")
        self._steps = int(state["steps"])
        self._plan = {name: state[name] for name in self._plan}
        self.announce()
        self._apply()
