"""Writes down every operation that torch carries out, with what it is, how much of it there is, and for whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ecograph.cost.steps.flops import conv_backward_flops, op_flops
from ecograph.cost.steps.kinds import VIEW, kind_of
from ecograph.cost.steps.memory import Memory, storage_key
from ecograph.cost.steps.op import Grad, Op
from ecograph.cost.steps.owners import Owners
from ecograph.cost.steps.sizes import conv_sizes, matmul_sizes
from ecograph.cost.steps.traffic import nbytes, tensors, traffic

#: What is not work at all, and is asked so often that it is not even written down.
_QUESTIONS = ("prim::", "profiler::", "aten::sym_", "aten::promote_types")


class Recorder(TorchDispatchMode):
    """Sees every operation beneath autograd: what a step really runs, its backward and optimizer included.

    Args:
        owners: knows which layer is at work.
        parameters: of the model.
        known: all tensors that are there before the step.

    Attributes:
        ops: what was written down.
        memory: what is kept.
    """

    def __init__(self, owners: Owners, parameters: list[Tensor], known: list[Tensor]) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self._owners = owners
        #: Storages that hold a parameter, or a copy of one in another type or in part.
        self._weights = {storage_key(parameter) for parameter in parameters}
        self.memory = Memory(known, self._weights.discard)
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Looks away."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carries an operation out, and writes it down."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._paused and not func._schema.name.startswith(_QUESTIONS):
            self._write(func, args, kwargs, out)
        return out

    def _write(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.replace("::", ".")
        kind = kind_of(func)
        phase, layer = self._owners.now()
        results = tensors(out)
        fresh = self.memory.add(results)
        about: dict[str, Any] = {"name": name, "phase": phase, "layer": layer, **_computes_with(args, kwargs, results)}
        if kind == VIEW:
            self.ops.append(Op(kind=kind, fresh=False, **about))
            return
        operands = tensors(args)
        if kind in ("copy", "indexing") and phase != "optimizer" and operands and self._is_weight(operands[0]):
            self._weights |= {storage_key(result) for result in results}
        if kind == "conv_backward":
            self.ops += _conv_backward(about, *args)
            return
        grad: Grad = ""
        sizes: tuple[int, ...] = ()
        if kind == "matmul":
            sizes = matmul_sizes(func, args)
            if phase == "backward":
                grad = "grad_input" if any(map(self._is_weight, operands)) else "grad_weight"
        elif kind == "conv":
            sizes = conv_sizes(args[0], args[1], results[0], groups=args[8])
            about["channels_last"] = _channels_last(args[0], args[1])
        read, written = traffic(name.removeprefix("aten."), func, args, kwargs, out)
        flops = op_flops(func, args, kwargs, out)
        self.ops.append(
            Op(kind=kind, grad=grad, sizes=sizes, flops=flops, read=read, written=written, fresh=fresh, **about)
        )

    def _is_weight(self, tensor: Tensor) -> bool:
        return storage_key(tensor) in self._weights


def _conv_backward(about: dict[str, Any], grad: Tensor, input: Tensor, weight: Tensor, *rest: Any) -> list[Op]:
    """Returns the two products, or one, that a convolution's backward consists of; a bias costs next to nothing."""
    groups, mask = rest[6], rest[7]
    shared = {
        **about,
        "sizes": conv_sizes(input, weight, grad, groups=groups),
        "channels_last": _channels_last(input, weight),
    }
    flops = conv_backward_flops(grad, input, weight, *rest)
    kinds: list[tuple[Grad, int, Tensor, Tensor, bool]] = [
        ("grad_input", flops[0], weight, input, mask[0]),
        ("grad_weight", flops[1], input, weight, mask[1] or mask[2]),
    ]
    return [
        Op(
            kind="conv",
            grad=which,
            flops=count,
            read=nbytes(grad) + nbytes(other),
            written=result.numel() * result.element_size(),
            **shared,
        )
        for which, count, other, result, wanted in kinds
        if wanted
    ]


def _channels_last(input: Tensor, weight: Tensor) -> bool:
    format = {4: torch.channels_last, 5: torch.channels_last_3d}.get(input.dim())
    if format is None:
        return False
    return any(t.is_contiguous(memory_format=format) and not t.is_contiguous() for t in (input, weight))


def _computes_with(args: Any, kwargs: Any, results: list[Tensor]) -> dict[str, str]:
    """Returns the type and device of the first operand that is a number with a fraction, or of what there is."""
    found = [*tensors(args), *results] or tensors(kwargs)
    floating = [tensor for tensor in found if tensor.is_floating_point()]
    first = (floating or found or [None])[0]
    if first is None:
        return {"dtype": "none", "device": "cpu"}
    return {"dtype": str(first.dtype).removeprefix("torch."), "device": first.device.type}
