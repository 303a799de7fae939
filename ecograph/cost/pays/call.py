"""Recording one call, forward and backward, on tensors that hold no data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ecograph.cost.steps.op import Op
from ecograph.cost.steps.owners import Owners
from ecograph.cost.steps.recorder import Recorder


@dataclass(frozen=True)
class Spec:
    """A tensor, without what is in it.

    Attributes:
        shape: its shape.
        dtype: its type of numbers.
        requires_grad: whether the backward computes its gradient.
        weight: whether it is a parameter.
        channels_last: whether it is in this memory format.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    requires_grad: bool = True
    weight: bool = False
    channels_last: bool = False


def record_call(compute: Callable[..., Any], specs: Sequence[Spec | None]) -> tuple[Op, ...]:
    """Returns all that a call and its backward run, with the gradients accumulated.

    It runs in a thread of its own: whatever hooks, modes, autocast or transforms are in force where it is asked,
    perhaps in the middle of a forward, neither see it nor change it.

    Args:
        compute: returns a tensor.
        specs: of the tensors that it is called with; None for an argument that is None.
    """
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(_record, compute, specs).result()


def _record(compute: Callable[..., Any], specs: Sequence[Spec | None]) -> tuple[Op, ...]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), torch.compiler.set_stance("force_eager"):
        tensors = [None if spec is None else _make(spec) for spec in specs]
        known = [tensor for tensor in tensors if tensor is not None]
        weights = [
            tensor for spec, tensor in zip(specs, tensors, strict=True) if tensor is not None and spec and spec.weight
        ]
        with Owners(nn.Module()) as owners:
            # In a step others ran before, on as much as this call is on.
            before = sum(tensor.nbytes for tensor in known) - sum(weight.nbytes for weight in weights)
            recorder = Recorder(owners, weights, known, moved_before=before)
            with recorder:
                out = compute(*tensors)
                if out.requires_grad:
                    with recorder.paused():
                        grad = torch.empty_like(out)
                    out.backward(grad)
                recorder.write_python()
    return tuple(recorder.ops)


def _make(spec: Spec) -> Tensor:
    format = torch.contiguous_format
    if spec.channels_last:
        format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(spec.shape), format)
    made = torch.empty(spec.shape, dtype=spec.dtype, memory_format=format)
    return made.requires_grad_(spec.requires_grad and made.is_floating_point())
