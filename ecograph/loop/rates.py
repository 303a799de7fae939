"""The Scheduler of the rates, in a generated loop: once, however many passes have a rate."""

from __future__ import annotations

from ecograph.loop.program import Program


def insert_scheduler(program: Program) -> None:
    """Adds what sets the rates of the passes on the model, step by step."""
    if program.scheduled:
        return
    program.scheduled = True
    program.insert(
        "before_training",
        """
        from ecograph import Scheduler

        # Sets the rate of every rewritten layer, epoch by epoch.
        rates = Scheduler(model, epochs=epochs, steps_per_epoch=STEPS)
        """,
        STEPS=program.steps_per_epoch,
    )
    program.keep("rates")
    program.insert("after_optimizer_step", "rates.step()")
    advance_rates(program)


def advance_rates(program: Program) -> None:
    """Moves the plan of the rates on by an epoch, in slot "skipped_epoch" of a pass that skips some.

    Called by that pass too: either may come first.
    """
    if program.scheduled and "skipped_epoch" in program.slots:
        program.insert("skipped_epoch", "rates.skip_epoch()")
