"""A training step under a setting, ready to be taken again and again."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ecograph.advice.setting import Setting
from ecograph.advice.subject import Subject, trainable
from ecograph.capture.quiet import silent
from ecograph.errors import NoEffectWarning
from ecograph.optimize import optimize
from ecograph.record import records
from ecograph.schedule import Mix

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_numbers = itertools.count()


class NotPossibleError(Exception):
    """A setting that cannot be run here; the message says why."""


class Trial:
    """A copy of the model with switches on.

    Args:
        subject: the step.
        setting: its switches.

    Attributes:
        gradient: of the first step, all of it in one tensor on the CPU; taken from the subject's weights.
        mix: the share of a training's steps at each combination of the rates of the passes.

    Raises:
        NotPossibleError: where the setting cannot be run.
    """

    def __init__(self, subject: Subject, setting: Setting) -> None:
        self.subject = subject
        self.setting = setting
        with self.switched(), silent():  # compilers warn of torch's own code
            try:
                self._make()
                self.gradient = self._gradient()
                for rates, _ in self.mix:
                    self.set_rates(rates)
                    self.step()  # what is set up at the first step is no part of the others
            except NotPossibleError:
                raise
            except Exception as error:  # the same step works without the switches, so it is they that cannot work here
                raise NotPossibleError(_first_line(error)) from error

    def _make(self) -> None:
        setting = self.setting
        self.inputs, self.targets = self.subject.inputs, self.subject.targets
        if setting.batch is not None:
            self.inputs, self.targets = self.subject.resized(setting.batch)
        self.model = self.subject.copy()
        if setting.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.inputs = _channels_last(self.inputs)
        if setting.passes:
            self._optimize()
        self.mix = _combined([few for record in records(self.model) for few in map(_few, record.mixes)])
        for rate in self._rates():
            rate.scheduled = True
        options = {"fused": True} if setting.fused else {}
        self.optimizer = self.subject.optimizer(trainable(self.model), **options)
        self.scaler = torch.amp.GradScaler(self.subject.device.type, enabled=setting.amp == "fp16")
        self.forward: Callable[..., Any] = self.model
        if setting.compile:
            self.forward = torch.compile(_function_of_its_own(self.model))

    def _optimize(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NoEffectWarning)
            optimize(self.model, example_inputs=self.inputs, passes=list(self.setting.passes), amp=self.setting.amp)
        told = [str(each.message) for each in caught if issubclass(each.category, NoEffectWarning)]
        if told:
            raise NotPossibleError(told[0])

    def _rates(self) -> list[Any]:
        return [rate for record in records(self.model) for rate in record.rates]

    def set_rates(self, values: tuple[float, ...]) -> None:
        """Has the passes act at these rates."""
        for rate, value in zip(self._rates(), values, strict=True):
            rate.set(value)

    def step(self) -> None:
        """Takes a training step."""
        self.optimizer.zero_grad(set_to_none=True)
        self._backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _backward(self) -> None:
        args, kwargs = self.inputs
        with self._autocast():
            loss = self.subject.loss(self.forward(*args, **kwargs), self.targets)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.setting.amp is None:
            return nullcontext()
        return torch.autocast(self.subject.device.type, dtype=_DTYPES[self.setting.amp])

    def _gradient(self) -> Tensor | None:
        """Returns the gradient at the subject's weights, with the passes at the peak of their rates.

        Dropout is left out: what it draws depends on the memory format and the compiler. A compiled model would have to
        be compiled again for that, so it has no gradient to compare; and where the batch is another one, neither.
        """
        dropouts = [each for each in self.model.modules() if isinstance(each, nn.modules.dropout._DropoutNd)]
        if self.setting.batch is not None or (dropouts and self.setting.compile):
            return None
        for each in dropouts:
            each.eval()
        if self.mix:
            self.set_rates(max(rates for rates, _ in self.mix))
        torch.manual_seed(0)  # the same numbers in each trial; the state is put back when all is measured
        self.optimizer.zero_grad(set_to_none=True)
        self._backward()
        for each in dropouts:
            each.train()
        parts = [
            torch.zeros(parameter.numel())
            if parameter.grad is None
            else parameter.grad.detach().float().cpu().flatten()
            for parameter in trainable(self.model)
        ]
        return torch.cat(parts) / self.scaler.get_scale()

    @contextmanager
    def switched(self) -> Iterator[None]:
        """Has the switches on that are the process's, not the model's."""
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        if self.setting.threads is not None:
            torch.set_num_threads(self.setting.threads)
        if self.setting.tf32:
            torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)


def _channels_last(inputs: Any) -> Any:
    from torch.utils import _pytree as pytree

    def convert(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    return pytree.tree_map_only(Tensor, convert, inputs)


def _few(mix: Mix) -> Mix:
    from ecograph.cost.estimate.estimate import few

    return few(mix)


def _combined(mixes: list[Mix]) -> list[tuple[tuple[float, ...], float]]:
    """Returns every combination of the rates of several passes with its share: they act independently."""
    found: list[tuple[tuple[float, ...], float]] = [((), 1.0)]
    for mix in mixes:
        found = [((*rates, rate), share * part) for rates, share in found for rate, part in mix.items()]
    return found


def _function_of_its_own(model: nn.Module) -> Callable[..., Any]:
    """Returns the model as a function whose code no other shares: Dynamo keeps what it compiled by code object."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    code = forward.__code__.replace(co_name=f"forward_{next(_numbers)}")
    return FunctionType(code, forward.__globals__, closure=forward.__closure__)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
