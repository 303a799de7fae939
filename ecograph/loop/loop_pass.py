"""What it takes to be a loop pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ecograph.loop.program import Program


class LoopPass(Protocol):
    """A change to the training loop; what `TrainingLoop(passes=[...])` takes.

    Any object with these members is one. As a dataclass it can put itself into the text of the loop: given
    as the value of a hole, it is written as a call of its class with the options that were set.
    """

    @property
    def name(self) -> str:
        """How messages, comments and the head of the text call it."""

    @property
    def numerics(self) -> str:
        """Whether training gives the same numbers as without it: "exact" or "approximate"."""

    @property
    def source(self) -> str:
        """The paper it comes from."""

    def insert(self, program: Program) -> None:
        """Put statements into the loop."""


def check_passes(passes: object) -> tuple[LoopPass, ...]:
    """Return `passes` as a tuple.

    Raises:
        ValueError: naming whatever in it is not a loop pass.
    """
    if isinstance(passes, str) or not isinstance(passes, Sequence):
        raise ValueError(f"passes={passes!r} is not a list of loop passes: write passes=[...]")
    for each in passes:
        if isinstance(each, type):
            raise ValueError(f"passes has the class {each.__name__}: give an instance, {each.__name__}()")
        name = getattr(each, "name", None) or repr(each)
        if not callable(getattr(each, "insert", None)):
            raise ValueError(f"passes has {name}, which is not a loop pass: it has no insert(program)")
        if missing := [member for member in ("name", "numerics", "source") if not hasattr(each, member)]:
            raise ValueError(
                f"passes has {name}, which is not a loop pass: it has no {' and no '.join(missing)}"
            )
    names = [each.name for each in passes]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"passes has {', '.join(sorted(twice))} more than once: give each pass once")
    return tuple(passes)
