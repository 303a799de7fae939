"""A copy of the user's model to trace, so that tracing may run the model's own Python without a trace on it.

``copy.deepcopy`` alone is not enough. It shares functions, whose closures may hold the model itself (a
forward that was wrapped, as Accelerate does) or the user's lists (a hook that collects activations). And it
refuses tensors that carry a graph, such as the ``weight`` that ``torch.nn.utils.weight_norm`` keeps beside
its parameters.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from contextlib import AbstractContextManager
from types import CellType, FunctionType
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ecograph.capture.inputs import Inputs

M = TypeVar("M", bound=nn.Module)

#: A model to run in the user's model's place, what to call it with, and the mode that its tensors need.
Copies = tuple[nn.Module, Inputs, AbstractContextManager[Any]]


def copy_module(model: M, *, share_parameters: bool = True, memo: dict[int, Any] | None = None) -> M:
    """Returns a copy of ``model`` whose forward changes nothing in the original, as far as Python allows.

    Module-level variables, class attributes and files are beyond reach: a forward that writes to those, does.

    Args:
        model: the model.
        share_parameters: whether the copy has the very same parameters. Buffers are always its own.
        memo: id of a part of the model -> what the copy has in its place.
    """
    memo = {} if memo is None else memo
    if share_parameters:
        memo |= {id(p): p for p in model.parameters()}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = copy.deepcopy(value.detach())
    # deepcopy has no public way to say how functions are copied.
    with mock.patch.dict(copy._deepcopy_dispatch, {FunctionType: _copy_function}):  # type: ignore[attr-defined]
        return copy.deepcopy(model, memo)


def fake_copy(model: M, inputs: Inputs) -> tuple[M, Inputs, AbstractContextManager[Any]]:
    """Returns model and inputs with fake tensors (shapes and dtypes without memory), and their mode."""
    from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo = _stand_ins(model, mode)
    with mode, FakeCopyMode(mode):
        fake = copy_module(model, share_parameters=False, memo=memo)
    args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, inputs)
    with mode:
        meta_to_cpu(fake)
        args, kwargs = pytree.tree_map_only(torch.Tensor, _off_meta, (args, kwargs))
    return fake, (args, kwargs), mode


def _stand_ins(model: nn.Module, mode: Any) -> dict[int, torch.Tensor]:
    """Returns a fake tensor for each plain parameter and buffer, as ``FakeCopyMode`` would make it, but much sooner.

    Views of one another are left to it.
    """
    from torch._subclasses.fake_tensor import FakeTensor

    found = {id(t): t for t in (*model.parameters(), *model.buffers()) if _is_plain(t)}
    uses = Counter(t.untyped_storage()._cdata for t in found.values())
    made: dict[int, torch.Tensor] = {}
    for key, tensor in found.items():
        if uses[tensor.untyped_storage()._cdata] == 1:
            empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
            device = torch.device("cpu") if tensor.is_meta else tensor.device
            made[key] = FakeTensor(
                mode, empty, device, requires_grad=tensor.requires_grad, _is_param=isinstance(tensor, nn.Parameter)
            )
    return made


def _is_plain(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_leaf:
        return False
    return type(tensor) is nn.Parameter or (type(tensor) is torch.Tensor and not vars(tensor))


def _off_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor


def meta_to_cpu(model: nn.Module) -> None:
    """Moves a copy from the meta device to fake CPU tensors, in place; call it inside their fake mode.

    Many models build tensors in their forward (a mask, positions) on the device where they think they are, and cannot
    mix those with meta tensors. Fake CPU tensors have no data either.
    """
    moved: dict[int, torch.Tensor] = {}

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in moved:  # tied weights stay tied
            empty = torch.empty_like(tensor, device="cpu")
            is_parameter = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return moved[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    tensors[name] = cpu(tensor)  # type: ignore[assignment]


def _copy_function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """Copies a function together with the variables it closes over; functions without any are shared.

    So are those of a module's own: they are not the model's, and tracers know them by identity, such as
    ``torch.utils.checkpoint.checkpoint``, which its decorators make a closure.
    """
    if not function.__closure__ or _is_global(function):
        return function
    cells = tuple(CellType() for _ in function.__closure__)
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__dict__.update(function.__dict__)
    copied.__qualname__, copied.__module__ = function.__qualname__, function.__module__
    memo[id(function)] = copied  # before the closure: it may lead back here
    for cell, original in zip(cells, function.__closure__, strict=True):
        try:
            content = original.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
        try:
            cell.cell_contents = copy.deepcopy(content, memo)
        except Exception:  # what cannot be copied (a lock, a file, a generator) is shared
            cell.cell_contents = content
    return copied


def _is_global(function: FunctionType) -> bool:
    """Whether a function can be found under its own name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function
