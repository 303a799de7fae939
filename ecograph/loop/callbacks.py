"""The user's own objects that are told what happens when."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from ecograph.loop.history import EpochRecord


class Callback:
    """Derive from this, and override what you need.

    What must survive a restart goes into `state_dict`: tensors, numbers, strings, and containers of them.
    """

    def on_epoch_start(self, epoch: int, model: nn.Module) -> None:
        """Called before the first batch of an epoch, counted from 0."""

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        """Called after each optimizer step, with the loss of its last batch."""

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        """Called after each epoch, when it is validated and recorded."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


def check_callbacks(callbacks: object) -> tuple[Callback, ...]:
    """Return `callbacks` as a tuple.

    Raises:
        ValueError: for something in it that is not a Callback.
    """
    if not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks={callbacks!r} is not a list: write callbacks=[...]")
    found = tuple(callbacks)
    for each in found:
        if isinstance(each, type) and issubclass(each, Callback):
            raise ValueError(f"callbacks has the class {each.__name__}: give an instance, {each.__name__}()")
        if not isinstance(each, Callback):
            raise ValueError(f"callbacks has {each!r}: derive its class from ecograph.loop.Callback")
    return found


class Callbacks(Callback):
    """Several callbacks as one: each is told, in their order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        """Take the callbacks.

        Raises:
            ValueError: for something that is not a Callback.
        """
        self._all = check_callbacks(callbacks)

    def on_epoch_start(self, epoch: int, model: nn.Module) -> None:
        """Tell each."""
        for each in self._all:
            each.on_epoch_start(epoch, model)

    def on_step_end(self, epoch: int, model: nn.Module, loss: Tensor) -> None:
        """Tell each."""
        for each in self._all:
            each.on_step_end(epoch, model, loss)

    def on_epoch_end(self, epoch: int, model: nn.Module, record: EpochRecord) -> None:
        """Tell each."""
        for each in self._all:
            each.on_epoch_end(epoch, model, record)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each, with the name of its class."""
        return {"callbacks": [{"class": type(each).__name__, "state": each.state_dict()} for each in self._all]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the state of each back.

        Raises:
            ValueError: where there are other callbacks than there were.
        """
        then = [each["class"] for each in state["callbacks"]]
        now = [type(each).__name__ for each in self._all]
        if then != now:
            raise ValueError(f"the checkpoint was written with callbacks={then}, and now they are {now}: give the same")
        for each, kept in zip(self._all, state["callbacks"], strict=True):
            each.load_state_dict(kept["state"])
