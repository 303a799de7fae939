"""What plain steps spend on getting memory from the system that they had before."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import Any

from ecograph.advice.trial import Trial
from ecograph.allocator import keeps_memory

#: Steps that are looked at.
STEPS = 10
#: Share of the CPU time from which on it is worth a line of code.
WORTHWHILE = 0.05


@dataclass(frozen=True)
class Faults:
    """Page faults of plain steps.

    Attributes:
        per_step: memory pages that the system had to give, on average.
        system_share: of the CPU time, that which was the system's: about the most that keeping memory can gain.
    """

    per_step: float
    system_share: float

    @property
    def offer(self) -> str:
        """What to do about it; ``""`` for nothing."""
        if self.system_share < WORTHWHILE:
            return ""
        return (
            f"a plain step asks the system for {self.per_step:,.0f} pages of memory, which takes up to "
            f"{self.system_share:.0%} of its time. ecograph.keep_memory(), called before training, spares it that: "
            "exact, and not in the table, since it lasts as long as the process"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return {**asdict(self), "offer": self.offer}


def page_faults(trial: Trial) -> Faults | None:
    """Counts the page faults of some steps; None on a GPU, where memory is kept already, and on other C libraries.

    Args:
        trial: whose steps are looked at; it has taken some.
    """
    if trial.subject.device.type != "cpu" or keeps_memory() or platform.libc_ver()[0] != "glibc":
        return None
    import resource  # there is one wherever there is glibc

    with trial.switched():
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(STEPS):
            trial.step()
        after = resource.getrusage(resource.RUSAGE_SELF)
    system, user = after.ru_stime - before.ru_stime, after.ru_utime - before.ru_utime
    share = system / (system + user) if system + user else 0.0
    return Faults((after.ru_minflt - before.ru_minflt) / STEPS, share)
