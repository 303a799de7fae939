"""What one process says to others, where there are no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")


class Alone:
    """The only process of a training: it answers at once what `Ranks` asks of all.

    Attributes:
        rank: of this process, from 0.
        count: of processes.
    """

    rank = 0
    count = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    @property
    def mesh(self) -> DeviceMesh:
        """The processes in a row, as DTensors need it; there is none of a single one."""
        raise AssertionError("nothing is sharded over a single process")

    def tell(self, value: T) -> T:
        """Returns what the first process gave; the others' values do not matter."""
        return value

    def everyone(self, value: T) -> list[T]:
        """Returns what each process gave, in their order."""
        return [value]

    def collect(self, value: T) -> list[T]:
        """Returns in the first process what each gave; in the others an empty list."""
        return [value]

    def deal(self, values: list[T]) -> T:
        """Returns to each process its own of the values that the first has."""
        return values[0]

    def highest(self, number: int) -> int:
        """Returns the largest number that a process gave."""
        return number

    def spread(self, tree: Any, keep: Callable[[tuple[str, ...], Tensor], Tensor]) -> Any:
        """Returns what the first process gave, with each tensor as ``keep(path, tensor)`` makes of it."""
        return tree

    def first_does(self, act: Callable[[], T]) -> T:
        """Has the first process do something, and returns the result in all; or all fail as it did."""
        return act()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Whatever fails in the block in one process fails in all of them, so that none waits for ever.

        Nothing within may wait for the other processes.
        """
        yield
