"""Which layer an operation is done for, in the forward and in the backward."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction
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
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._of_parameter = {
            id(parameter): path
            for path, module in model.named_modules()
            for parameter in module.parameters(recurse=False)
        }
        self._running: list[str] = []
        self._owner: dict[int, str] = {}
        self._weighted: set[int] = set()
        self._next = 0
        self._exit = ExitStack()

    def __enter__(self) -> Owners:
        """Begins to listen to every module's calls."""
        self._next = _number()
        before = hooks.register_module_forward_pre_hook(self._enter)
        self._exit.callback(before.remove)
        after = hooks.register_module_forward_hook(self._leave, always_call=True)
        self._exit.callback(after.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the modules alone again."""
        self._exit.close()

    def now(self) -> tuple[Phase, str]:
        """Returns when in the step we are, and for which layer."""
        phase: Phase = "forward"
        layer = self._running[-1] if self._running else ""
        if torch._C._current_graph_task_id() != -1:
            # A forward that runs again, under checkpointing, is recorded by autograd, as the backward itself is not.
            if not self._running and not torch.is_grad_enabled():
                return "backward", self._differentiated()
            phase, layer = "recomputed", layer or self._differentiated()
        number = _number()
        for taken in range(self._next, number):
            self._owner[taken] = layer
        self._next = number
        return phase, layer

    def uses_weight(self) -> None:
        """Says that what is running in the forward multiplies by a weight."""
        self._weighted.add(_number() - 1)

    def differentiates_weighted(self) -> bool:
        """Whether what is differentiated at this moment multiplied by a weight."""
        node = torch._C._current_autograd_node()
        return node is not None and node._sequence_nr() in self._weighted

    def python_function(self) -> Any:
        """Returns the ``autograd.Function`` written in Python that is differentiated at this moment, or None."""
        node = torch._C._current_autograd_node()
        return node if isinstance(node, BackwardCFunction) else None

    def in_engine(self) -> bool:
        """Whether autograd's own code runs: the backward, and no function of it that is written in Python."""
        if torch._C._current_graph_task_id() == -1 or torch.is_grad_enabled():
            return False
        return self.python_function() is None

    def _differentiated(self) -> str:
        """Returns the layer of what is differentiated at this moment, or of the parameter that gets its gradient."""
        node = torch._C._current_autograd_node()
        if node is None:
            return ""
        owner = self._owner.get(node._sequence_nr())
        if owner is None:
            owner = self._of_parameter.get(id(getattr(node, "variable", None)), "")
        return owner

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.now()  # what was recorded until here is the caller's
        above = self._running[-1] if self._running else ""
        self._running.append(self._paths.get(id(module), above))

    def _leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if self._running:
            self.now()
            self._running.pop()


def _number() -> int:
    """Returns the number that autograd gives to what it records next."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number
