"""Short looks before a search: what batch sizes cost, waiting for data, learning rates that make sense."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ecograph.cost.meter import Window
from ecograph.loop import Callback, NonFiniteLossError
from ecograph.loop.first_batch import first_batch, samples_in
from ecograph.sweeps.attempt import Stopped
from ecograph.sweeps.memory import OutOfMemory, check_fits, is_out_of_memory
from ecograph.sweeps.problem import Problem, Training
from ecograph.sweeps.space import Choice, Range, Values, plain

#: Seconds of training that a batch size is judged by.
SECONDS = 0.5
#: A batch size that costs so many times the energy per sample of the best wastes it.
WASTEFUL = 1.5
#: A device that waits for data for so much of its time wastes it.
IDLE = 0.2
#: Steps, and the first and last learning rate, of the range test (Smith, arXiv 1506.01186).
STEPS, LOWEST, HIGHEST = 60, 1e-5, 10.0


def probe(
    problem: Problem, values: Values, *, seed: int, tell: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Looks at a problem from one setting, and returns what it saw as JSON types.

    Args:
        problem: what will be searched.
        values: the setting, of which the batch size is varied.
        seed: of the trainings.
        tell: told what is being done.

    Returns:
        ``batches``: for each batch size samples per second, joules per sample and the share of time in the loader, or
        why it is infeasible; ``largest_batch`` of those that fit; ``lr``: of the range test; ``warnings``; ``spent``.
    """
    window = Window()
    batches = []
    for size in _sizes(problem, values):
        tell(f"probing batch size {size}")
        batches.append(_batch(problem, {**values, problem.batch_name: size}, size, seed))
    tell("learning-rate range test")
    lr = _range_test(problem, values, seed)
    used = window.finish()
    fitting = [each["batch_size"] for each in batches if not each.get("infeasible")]
    return {
        "batches": batches,
        "largest_batch": max(fitting, default=None),
        "lr": lr,
        "warnings": [*_batch_warnings(batches, values.get(problem.batch_name)), *_lr_warnings(problem, lr)],
        "spent": _spent(problem, used.seconds, used.joules),
    }


class Some:
    """So many batches of a loader, again from its beginning where it is shorter, and how long they took to come.

    Args:
        loader: of which.
        count: how many.
    """

    def __init__(self, loader: Any, count: int) -> None:
        self._loader = loader
        self._count = count
        self.seconds = 0.0
        self.samples = 0

    def __len__(self) -> int:
        """Returns how many there are."""
        return self._count

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        batches = itertools.chain.from_iterable(itertools.repeat(self._loader))
        for _ in range(self._count):
            started = time.perf_counter()
            batch = next(batches)
            self.seconds += time.perf_counter() - started
            self.samples += samples_in(batch)
            yield batch


def _sizes(problem: Problem, values: Values) -> list[int]:
    """Returns the batch sizes that may be drawn, or some of them."""
    parameter = problem.space.parameters.get(problem.batch_name)
    if isinstance(parameter, Choice):
        return sorted(size for size in parameter.values if isinstance(size, int))
    if isinstance(parameter, Range):
        low, high = max(1, int(parameter.low)), int(parameter.high)
        doubled = [low * 2**power for power in range(20) if low * 2**power < high]
        return [*doubled, high]
    own = values.get(problem.batch_name)
    return [own] if isinstance(own, int) else []


def _batch(problem: Problem, values: Values, size: int, seed: int) -> dict[str, Any]:
    """Returns what a batch size costs."""
    found: dict[str, Any] = {"batch_size": size}
    try:
        training = _short(problem.training(values, seed=seed, stop=None, callbacks=()))
        check_fits(training)
        _run(training, Some(training.arguments[3], 1))  # sets up what is set up once
        started = time.perf_counter()
        _run(training, Some(training.arguments[3], 1))
        taken = time.perf_counter() - started
        batches = Some(training.arguments[3], max(2, min(200, math.ceil(SECONDS / taken))))
        window = Window()
        _run(training, batches)
        used = window.finish()
    except (OutOfMemory, RuntimeError, MemoryError) as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        return found | {"infeasible": str(error).splitlines()[0][:200]}
    except ValueError as error:  # such as a batch that is larger than the data set
        return found | {"infeasible": str(error)[:200]}
    return found | {
        "samples_per_second": batches.samples / used.seconds,
        "joules_per_sample": None if used.joules is None else used.joules / batches.samples,
        "energy_source": used.source,
        "loader_share": min(1.0, batches.seconds / used.seconds),
    }


def _short(training: Training) -> Training:
    """Returns a training of one epoch that nobody watches."""
    loop = replace(
        training.loop, epochs=1, passes=(), stop=None, callbacks=(), checkpoint=None, checkpoint_every=None, log=None,
        lr_step="epoch", ema=None, progress=False,
    )  # fmt: skip
    return Training(loop, training.arguments)


def _run(training: Training, batches: Some) -> None:
    model, optimizer, loss_fn = training.arguments[:3]
    training.loop.run(model, optimizer, loss_fn, batches)


class _Rising(Callback):
    """Raises the learning rate step by step, and remembers the losses."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.rates = [LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]
        self.losses: list[float] = []
        self._mean = 0.0
        self._set(0)

    def _set(self, step: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.rates[step]

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        """Goes on to the next rate, until the loss has left its valley."""
        step = len(self.losses)
        value = float(loss.detach())
        self._mean = 0.7 * self._mean + 0.3 * value
        self.losses.append(self._mean / (1 - 0.7 ** (step + 1)))
        if not math.isfinite(value) or (step > 5 and self.losses[-1] > 3 * min(self.losses)):
            raise Stopped("left the valley")
        if step + 1 < STEPS:
            self._set(step + 1)


def _range_test(problem: Problem, values: Values, seed: int) -> dict[str, Any] | None:
    """Returns the learning rates at which the loss falls fastest, is lowest and explodes; None where none helps."""
    training = _short(problem.training(values, seed=seed, stop=None, callbacks=()))
    rising = _Rising(training.arguments[1])
    watched = Training(replace(training.loop, callbacks=(rising,)), training.arguments)
    diverged = True
    try:
        _run(watched, Some(training.arguments[3], STEPS))
        diverged = False
    except (Stopped, NonFiniteLossError):
        pass
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise
    losses = [loss if math.isfinite(loss) else math.inf for loss in rising.losses]
    if len(losses) < 5:
        return None
    lowest = losses.index(min(losses))
    falls = [(losses[at] - losses[at - 1]) / max(abs(losses[at - 1]), 1e-12) for at in range(1, lowest + 1)]
    if not falls or losses[0] <= min(losses):
        return None
    steepest = 1 + falls.index(min(falls))
    return {
        "suggested": rising.rates[steepest],
        "lowest_loss_at": rising.rates[lowest],
        "diverges_at": rising.rates[len(losses) - 1] if diverged else None,
    }


def _batch_warnings(batches: list[dict[str, Any]], own: Any) -> list[str]:
    found = []
    known = {each["batch_size"]: each for each in batches if each.get("joules_per_sample")}
    if known:
        best = min(known.values(), key=lambda each: each["joules_per_sample"])
        wasteful = [
            f"{size} ({each['joules_per_sample'] / best['joules_per_sample']:.1f}x)"
            for size, each in known.items()
            if each["joules_per_sample"] > WASTEFUL * best["joules_per_sample"] and size < best["batch_size"]
        ]
        if wasteful:
            sizes = ", ".join(wasteful)
            size = best["batch_size"]
            found.append(f"tiny batches waste energy: per sample, batch sizes {sizes} cost that of {size}")
    waiting = [each for each in batches if each.get("loader_share", 0.0) > IDLE]
    if waiting:
        each = max(waiting, key=lambda each: each["loader_share"])
        found.append(
            f"{each['loader_share']:.0%} of the time is spent waiting for data at batch size {each['batch_size']}: "
            "more workers in the loader, or data that is prepared once, save energy"
        )
    infeasible = [str(each["batch_size"]) for each in batches if each.get("infeasible")]
    if infeasible:
        found.append(f"batch sizes that cannot be trained: {', '.join(infeasible)}")
    return found


def _lr_warnings(problem: Problem, lr: dict[str, Any] | None) -> list[str]:
    """Warns where none of the ranges for the learning rate has the one that the range test suggests."""
    ranges = [each for name, each in problem.space.parameters.items() if plain(name) == problem.lr_name]
    if lr is None or len(ranges) != 1 or not isinstance(ranges[0], Range) or ranges[0].holds(lr["suggested"]):
        return []
    low, high = ranges[0].low, ranges[0].high
    return [
        f"the range test suggests a learning rate near {lr['suggested']:.2g}, and the space has {low:g} to {high:g}"
    ]


def _spent(problem: Problem, seconds: float, joules: float | None) -> dict[str, float | None]:
    found: dict[str, float | None] = {"time": seconds, "energy": joules}
    if joules is not None:
        comes_to = problem.footprint(joules)
        found |= {"co2": comes_to.co2_grams, "money": comes_to.cost}
    return found


def check_loader(training: Training) -> None:
    """Raises ValueError where a loader has no batch."""
    first_batch(training.arguments[3])
