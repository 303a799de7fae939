"""Where in an epoch's data training is, and how to come back to that place."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from ecograph.loop.checkpoints.file import CheckpointError
from ecograph.loop.checkpoints.random_state import random_state, set_random_state


class Position:
    """The place in the data, of one epoch at a time.

    A loader's order is decided as its iteration begins, by random numbers drawn there. So what is kept is the state of
    the generators at that moment and how many batches were handed out. To come back, the iteration is begun again from
    that state, and as many batches are read and passed over: whatever the data set and its workers drew, they draw
    again. Workers that live on from epoch to epoch carry random numbers along that nobody can read: what they draw
    differs after a restart. A loader with a state of its own (``torchdata``'s ``StatefulDataLoader``) is asked to go
    there itself.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._begun: dict[str, Any] | None = None
        self._loader: Any = None

    def begin(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches of an epoch, counting them."""
        self._loader = loader
        self._begun = {"random": random_state(), "generators": self.generators(loader)}
        self.batches = 0
        yield from self._counted(iter(loader))

    def go_on(self, loader: Iterable[Any], state: dict[str, Any], restore: Callable[[], None]) -> Iterator[Any]:
        """Yields the batches of an epoch that are left.

        Args:
            loader: as it was.
            state: from :meth:`state_dict`.
            restore: puts everything else back, random numbers included; called before the first of them.

        Raises:
            CheckpointError: for a loader that gives fewer batches than it did.
        """
        self._loader = loader
        self._begun = state["begun"]
        self.batches = state["batches"]
        assert self._begun is not None
        if "loader" in state and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(state["loader"])
            iterator = iter(loader)
        else:
            set_random_state(self._begun["random"])
            self.set_generators(loader, self._begun["generators"])
            iterator = iter(loader)
            passed = sum(1 for _ in islice(iterator, self.batches))
            if passed < self.batches:
                raise CheckpointError(
                    f"the training data ended after {passed} batches, where {self.batches} had been trained on when "
                    "the checkpoint was written: the data must be the same, and the loader one that can be read again"
                )
        restore()
        yield from self._counted(iterator)

    def generators(self, loader: Any) -> list[torch.Tensor]:
        """Returns the state of a loader's own random generators."""
        return [generator.get_state() for generator in _generators(loader)]

    def set_generators(self, loader: Any, states: list[torch.Tensor]) -> None:
        """Puts back what :meth:`generators` returned.

        Raises:
            CheckpointError: for a loader with more or fewer of them.
        """
        generators = _generators(loader)
        if len(generators) != len(states):
            raise CheckpointError(
                f"the training loader and its samplers have {len(generators)} random generators of their own, and had "
                f"{len(states)} when the checkpoint was written: give them generator= as then"
            )
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)

    def state_dict(self) -> dict[str, Any]:
        """Returns the place, as tensors and numbers."""
        state = {"batches": self.batches, "begun": self._begun}
        if hasattr(self._loader, "state_dict") and hasattr(self._loader, "load_state_dict"):
            state["loader"] = self._loader.state_dict()
        return state

    def _counted(self, iterator: Iterator[Any]) -> Iterator[Any]:
        for batch in iterator:
            self.batches += 1
            yield batch


def warn_of_persistent_workers(loader: Any) -> None:
    """Warns where the data of a resumed run may be augmented by other random numbers."""
    if getattr(loader, "persistent_workers", False) and getattr(loader, "num_workers", 0):
        warnings.warn(
            "the training loader has persistent_workers=True: random numbers that its workers draw are others after a "
            "resume, so it is bit-exact only if the data set draws none; persistent_workers=False makes it so",
            stacklevel=4,
        )


def _generators(loader: Any) -> list[torch.Generator]:
    """Returns the random generators that belong to a loader or its samplers, each once."""
    found: dict[int, torch.Generator] = {}
    todo = [loader]
    while todo:
        each = todo.pop()
        generator = getattr(each, "generator", None)
        if isinstance(generator, torch.Generator):
            found[id(generator)] = generator
        todo += [part for name in ("sampler", "batch_sampler") if (part := getattr(each, name, None)) is not None]
    return list(found.values())
