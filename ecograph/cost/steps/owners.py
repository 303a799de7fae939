"""Which layer an operation is done for, in the forward and in the backward."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from ecograph.cost.steps.op import Phase


class Owners:
    """Knows while a step runs which module is running, and in the backward, which one ran what is differentiated.

    Autograd numbers what it records. The numbers that the forward took while a module was running are that module's,
    and the backward knows the number of what it is at.

    Args:
        model: whose modules' paths are the owners' names.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths = {module: path for path, module in model.named_modules()}
        self._running: list[str] = []
        self._owner: dict[int, str] = {}
        self._next = 0
        self._exit = ExitStack()

    def __enter__(self) -> Owners:
        """Begins to listen to every module's calls."""
        self._next = _number()
        before = hooks.register_module_forward_pre_hook(self._enter)
        after = hooks.register_module_forward_hook(self._leave, always_call=True)
        self._exit.callback(before.remove)
        self._exit.callback(after.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the modules alone again."""
        self._exit.close()

    def now(self) -> tuple[Phase, str]:
        """Returns when in the step we are, and for which layer."""
        backward = torch._C._current_graph_task_id() != -1
        if backward and not self._running:
            node = torch._C._current_autograd_node()
            return "backward", "" if node is None else self._owner.get(node._sequence_nr(), "")
        layer = self._running[-1] if self._running else ""
        number = _number()
        for taken in range(self._next, number):
            self._owner[taken] = layer
        self._next = number
        return "recomputed" if backward else "forward", layer

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.now()  # what was recorded until here is the caller's
        above = self._running[-1] if self._running else ""
        self._running.append(self._paths.get(module, above))

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._running:
            self.now()
            self._running.pop()


def _number() -> int:
    """Returns the number that autograd gives to what it records next."""
    number: int = torch.autograd._get_sequence_nr()
    return number
