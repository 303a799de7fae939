"""``update="slice"``: an optimizer step changes the slice that was trained, and nothing else.

Under plain autograd the gradient outside the slice is zero, but weight decay and momentum move those weights all the
same. Here they stay, and so does their optimizer state: before each step of any optimizer the part outside the slice is
copied, and after the step it is put back.

Why not hand the optimizer views of the slice instead, which would cost less? It would have to be fooled about the
shape of its parameters: fused and foreach kernels ask for dense memory, which a slice of columns or of several blocks
has not; a step that raises would leave the model with narrowed parameters; and state made at the first step would be
too small. Putting back is right for every optimizer that works element by element, whatever its kernels.

State that an optimizer makes at its first step is, outside the slice, what it makes for a weight and a gradient of
zero. What an optimizer counts, such as Adam's steps, it counts for whole parameters.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.take import Cut, outside

#: Optimizers of torch that do not work element by element.
_WHOLE = ("ASGD", "Adafactor", "LBFGS", "Muon", "SparseAdam")


class SliceUpdate:
    """Keeps the optimizer steps of some parameters to their slices.

    It lives on the :class:`SliceRate`, which the model's layers hold. So a copy of the model has one of its own, with
    the copied parameters.

    Attributes:
        parameters: each with the way it is cut.
        places: for each, the module that holds it, and under which name.
        rate: whose draws wait, while no Scheduler moves them, until an optimizer has stepped: the gradients of several
            forwards that are accumulated must be of one slice.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[nn.Parameter, tuple[Cut, ...]]],
        rate: SliceRate,
        places: Sequence[tuple[nn.Module, str]] = (),
    ) -> None:
        self.parameters = list(parameters)
        self.places = list(places)
        self.rate = rate
        self._saved: list[tuple[Tensor, Tensor]] = []
        _enlist(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_saved": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _enlist(self)

    def _of(self, optimizer: Optimizer) -> list[tuple[nn.Parameter, tuple[Cut, ...]]]:
        """Returns those of the parameters that an optimizer has."""
        theirs = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [(parameter, cuts) for parameter, cuts in self.parameters if id(parameter) in theirs]

    def follow(self) -> None:
        """Takes up what has taken a parameter's place since, as ``load_state_dict(assign=True)`` does."""
        for i, (module, name) in enumerate(self.places):
            now = module._parameters.get(name)
            if now is not None and now is not self.parameters[i][0]:
                self.parameters[i] = (now, self.parameters[i][1])

    def refuse(self, optimizer: Optimizer) -> None:
        """Raises ValueError for an optimizer that does not work element by element, or for sharded parameters."""
        mine = self._of(optimizer)
        if any(isinstance(parameter, _sharded()) for parameter, _ in mine):
            raise ValueError(
                "the parameters are sharded, so steps cannot be kept to a slice of them: "
                'give SliceOut(update="autograd")'
            )
        if mine and any(
            cls.__name__ in _WHOLE and cls.__module__.startswith("torch.") for cls in type(optimizer).__mro__
        ):
            raise _not_elementwise(optimizer)
        for parameter, _ in mine:
            for value in _state(optimizer, parameter).values():
                if not _fits(value, parameter):
                    raise _not_elementwise(optimizer)

    @torch.no_grad()
    def save(self, optimizer: Optimizer) -> None:
        """Copies what lies outside the slices that the gradients are of."""
        self._restore()  # what a step that raised has left behind
        for parameter, cuts in self._of(optimizer):
            if parameter.grad is None or not any(cut.active for cut in cuts):
                continue
            state = [value for value in _state(optimizer, parameter).values() if _shaped(value, parameter)]
            for tensor in (parameter, *state):
                self._saved += [(view, view.clone()) for view in outside(tensor.detach(), cuts)]
            if not state:  # the optimizer may be about to make it, from the parameter
                for view in outside(parameter.detach(), cuts):
                    view.zero_()

    @torch.no_grad()
    def put_back(self, optimizer: Optimizer) -> None:
        """Puts back what was copied, and lets the next forward draw."""
        self._restore()
        if self._of(optimizer):
            self.rate.waits = False

    def _restore(self) -> None:
        for view, value in self._saved:
            view.copy_(value)
        self._saved = []


def attach(
    parameters: list[tuple[nn.Parameter, tuple[Cut, ...]]],
    rate: SliceRate,
    places: Sequence[tuple[nn.Module, str]] = (),
) -> None:
    """Restricts optimizer steps of ``parameters`` to the slices of ``rate`` that are in force.

    Args:
        parameters: each with the way it is cut. A parameter that is used whole anywhere must not be among them.
        rate: the rate of all the slices.
        places: for each, the module that holds it, and its name there: what takes its place is restricted in turn.
    """
    detach(rate)
    rate.update = SliceUpdate(parameters, rate, places)


def detach(rate: SliceRate) -> None:
    """Undoes :func:`attach`."""
    if rate.update is not None:
        _live.discard(rate.update)
        rate.update = None
        rate.waits = False


def _state(optimizer: Optimizer, parameter: nn.Parameter) -> dict[Any, Any]:
    found: dict[Any, Any] = optimizer.state.get(parameter, {})
    return found


def _shaped(value: Any, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _fits(value: Any, parameter: nn.Parameter) -> bool:
    """Whether a value in an optimizer's state holds one number for each element, or one for all."""
    if isinstance(value, Tensor):
        return value.shape == parameter.shape or value.numel() == 1
    return value is None or isinstance(value, (bool, int, float, str))


def _sharded() -> tuple[type, ...]:
    """Returns the class of sharded parameters, where it has been imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return () if module is None else (module.DTensor,)


def _not_elementwise(optimizer: Optimizer) -> ValueError:
    return ValueError(
        f"{type(optimizer).__name__} does not work element by element, so its steps cannot be kept to a slice: "
        'give SliceOut(update="autograd")'
    )


# The hooks are torch's global ones, so that they reach optimizers made before and after; they see every optimizer's
# steps and act on those that have a parameter of ours. They are there once the first model needs them.
_live: weakref.WeakSet[SliceUpdate] = weakref.WeakSet()
_hooks: list[RemovableHandle] = []


def _enlist(update: SliceUpdate) -> None:
    _live.add(update)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_step))
        _hooks.append(register_optimizer_step_post_hook(_after_step))


def _before_step(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    for update in _live:
        update.follow()
    updates = [update for update in _live if update._of(optimizer)]
    for update in updates:
        update.refuse(optimizer)
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not updates:
        return None
    if closure is None:
        for update in updates:
            update.save(optimizer)
        return None
    # A closure runs forward and backward within the step, and may draw another slice.
    wrapped = _after(closure, lambda: [update.save(optimizer) for update in updates])
    if len(args) > 1:
        return (args[0], wrapped, *args[2:]), kwargs
    return args, {**kwargs, "closure": wrapped}


def _after(closure: Callable[[], Any], then: Callable[[], object]) -> Callable[[], Any]:
    def run() -> Any:
        result = closure()
        then()
        return result

    return run


def _after_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[Any, Any]) -> None:
    for update in list(_live):
        update.put_back(optimizer)
        update.refuse(optimizer)
