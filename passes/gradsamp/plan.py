"""Which epochs are skipped.

A pure function of the options, the epoch and the number of epochs: every rank and every resumed run comes to the same
plan, and whoever begins an epoch knows whether the next one will need what the weights are now.
"""

from __future__ import annotations

import random

from ecograph.passes.gradsamp.config import Options

#: Trained epochs before a skipped one: the change is measured over the last of them, from the end of the other.
NEEDED = 2


def is_skipped(options: Options, epoch: int, epochs: int | None = None) -> bool:
    """Returns whether an epoch is skipped.

    Args:
        options: of the pass.
        epoch: counted from 0.
        epochs: how many there are; None where that is not known, which only ``cooldown`` asks for.
    """
    if epoch < max(options.warmup, NEEDED) or (epochs is not None and epoch >= epochs - options.cooldown):
        return False
    if options.every is not None:
        return (epoch - options.warmup) % options.every == options.every - 1
    assert options.probability is not None
    trained = NEEDED
    skipped = False
    for each in range(max(options.warmup, NEEDED), epoch + 1):
        skipped = trained >= NEEDED and _uniform(options.seed, each) < options.probability
        trained = 0 if skipped else trained + 1
    return skipped


def skipped_epochs(options: Options, epochs: int) -> list[int]:
    """Returns the epochs that are skipped among ``epochs``, counted from 0."""
    return [epoch for epoch in range(epochs) if is_skipped(options, epoch, epochs)]


def _uniform(seed: int, epoch: int) -> float:
    """Returns a random number from 0 to below 1 that belongs to this epoch.

    Python hashes a string to a seed by SHA-512 and promises the same ``random()`` for a seed in every version.
    """
    return random.Random(f"gradsamp plan {seed} {epoch}").random()
