"""From a job to a loop and all that it is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ecograph
from ecograph.cost.estimate.run import skipped_epochs
from ecograph.explain import Report
from ecograph.loop import TrainingLoop
from ecograph.tools import own
from ecograph.tools.console import no_effect_noted
from ecograph.tools.errors import user_errors
from ecograph.tools.jobs.job import Job
from ecograph.tools.ranks import check_started
from ecograph.tools.training import Course, Parts, Ready, make_ready
from ecograph.tools.training.kinds import for_loop


@dataclass(frozen=True)
class Planned:
    """A job that is about to begin.

    Attributes:
        job: what was asked for.
        loop: its loop.
        ready: what the loop is called with.
    """

    job: Job
    loop: TrainingLoop
    ready: Ready

    def explained(self) -> Report | None:
        """Returns what the passes do to the model, on average over the training; None where none rewrites it."""
        if not self.job.setup.passes:
            return None
        return ecograph.explain(self.ready.model)

    def announce(self) -> None:
        """Plans the rates of the passes as the loop will, for a report without training."""
        steps = Course.of(self.loop).steps_per_epoch(self.ready.train_loader)
        if self.loop.program.scheduled and steps:
            scheduler = ecograph.Scheduler(self.ready.model, epochs=self.loop.epochs, steps_per_epoch=steps)
            scheduler.announce(skipped_epochs(self.loop.passes, self.loop.epochs))


def plan(
    job: Job, started_by: Sequence[str] | None = None, *, parts: Parts | None = None, on: str = "auto"
) -> Planned:
    """Makes everything that a job needs. Nothing is trained or written.

    Args:
        job: what is asked for. Beside what TOML can hold, its ``loop`` may have objects as callbacks and as the metric.
        started_by: the arguments of the command line that will train it; None where it is only looked at.
        parts: in place of the model and the loss that the job names.
        on: the device for which it is decided what pays; by default the one that the job runs on.

    Raises:
        UserError: for whatever in it does not exist or does not fit.
    """
    options = _with_objects(job.loop_options)
    with user_errors("[loop] "), no_effect_noted():
        loop = TrainingLoop(passes=for_loop(job.passes), **options)
    course = Course.of(loop)
    if started_by is not None:
        check_started(distributed=course.distributed, option="set loop.distributed", arguments=started_by)
    return Planned(job, loop, make_ready(job.setup, course, parts, on=on))


def _with_objects(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a loop, with the functions and objects that some of them name."""
    made = dict(options)
    metric = made.get("metric")
    if isinstance(metric, str) and ":" in metric:
        made["metric"] = own.load(metric, says=f"loop.metric {metric!r}")
    if "callbacks" in made:
        made["callbacks"] = [_callback(each) for each in made["callbacks"]]
    return made


def _callback(spec: Any) -> Any:
    """Returns the callback that ``spec`` names, or that the function or class of this name returns; or is."""
    if not isinstance(spec, str):
        return spec
    says = f"loop.callbacks {spec!r}"
    found = own.load(spec, says=says)
    return own.call(spec, found, says=says, gives="the callback") if callable(found) else found
