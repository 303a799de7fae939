"""Writes down every operation that torch carries out, with what it is, how much of it there is, and for whom."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from ecograph.cost.steps.accumulated import as_with_data
from ecograph.cost.steps.conv_memory import conv_temporary, is_strided
from ecograph.cost.steps.flops import conv_backward_flops, op_flops
from ecograph.cost.steps.frames import Frames
from ecograph.cost.steps.kinds import FUNCTION, PYTHON, VIEW, kind_of, name_of
from ecograph.cost.steps.memory import Memory, device_type, storage_key
from ecograph.cost.steps.op import Grad, Op, Phase
from ecograph.cost.steps.owners import Owners
from ecograph.cost.steps.recurrent_memory import kept_beside, recurrent_temporary
from ecograph.cost.steps.sizes import conv_sizes, matmul_sizes
from ecograph.cost.steps.traffic import nbytes, tensors, traffic, writes_to

#: What is not work at all, and is asked so often that it is not even written down.
_QUESTIONS = ("prim.", "profiler.", "aten.sym_", "aten.promote_types")

#: Operations on all of several tensors.
ON_SEVERAL = ("aten._foreach_", "aten._fused_ad", "aten._fused_sgd")

_DEVICE = torch.ops.prim.device.default

#: Bytes that operations move to fill half of the caches. Fitted: on 2 cores with 1 MiB of their own each, calls of
#: Python, views and small operations between others that moved 0.1 to 200 MB took ever longer, up to 5 times, and lay
#: on this curve.
HALF = 2**23


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation beneath autograd: what a step really runs, its backward and optimizer included.

    Args:
        owners: knows which layer is at work.
        parameters: of the model.
        known: all tensors that are there before the step.
        moved_before: bytes that other operations moved before.
        on_cpu: whether what is on the CPU here will run there: then its kernels take memory for themselves.

    Attributes:
        ops: what was written down.
        memory: what is kept.
    """

    #: Operations of higher order, such as ``torch.cond``, are carried out as one.
    supports_higher_order_operators = True

    def __init__(
        self,
        owners: Owners,
        parameters: list[Tensor],
        known: list[Tensor],
        *,
        moved_before: int = 0,
        on_cpu: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self._owners = owners
        #: Storages that hold a parameter, or a copy of one in another type or in part.
        self._weights = {storage_key(parameter) for parameter in parameters}
        self.memory = Memory(known, self._weights.discard)
        self._paused = False
        self._on_cpu = on_cpu
        #: The last function written in Python whose backward was seen.
        self._function: Any = None
        self._frames = Frames()
        self._calls: Counter[tuple[Phase, str]] = Counter()
        self._swept: defaultdict[tuple[Phase, str], float] = defaultdict(float)
        #: Bytes that operations have moved so far, and when something was run last, by what it is.
        self._moved = moved_before
        self._ran: dict[tuple[str, ...], int] = {}

    def __enter__(self) -> Recorder:
        """Begins to look."""
        super().__enter__()  # type: ignore[no-untyped-call]
        self._frames.start()
        return self

    def __exit__(self, *about: Any) -> None:
        """Looks away for good."""
        self._frames.stop()
        super().__exit__(*about)  # type: ignore[no-untyped-call]

    def write_python(self) -> None:
        """Writes down the Python functions that were called between the operations so far, all at once."""
        for (phase, layer), count in self._calls.items():
            swept = self._swept[phase, layer] / count
            self.ops.append(
                Op(name="python", kind=PYTHON, phase=phase, layer=layer, count=count, swept=swept, fresh=False)
            )
        self._calls.clear()
        self._swept.clear()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Looks away."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self._frames.take()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # no compiler is at work while a step is recorded, and keeping it off takes time

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carries an operation out, and writes it down."""
        if func is _DEVICE and isinstance(args[0], FakeTensor) and not args[0].fake_mode.in_kernel_invocation:
            return args[0].fake_device  # by far the most frequent question
        kwargs = kwargs or {}
        if self._owners.in_engine():
            func = as_with_data(func, args, kwargs)
        self._frames.stop()  # computing without data is done in Python
        try:
            out = func(*args, **kwargs)
            if not self._paused and not _is_question(func):
                self._write(func, args, kwargs, out)
        finally:
            self._frames.start()
        return out

    def _write(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        kind = kind_of(func)
        phase, layer = self._owners.now()
        results = tensors(out)
        operands = tensors((args, kwargs))
        name = name_of(func)
        if self._frames.count:
            count = self._frames.take()
            self._calls[phase, layer] += count
            # What calls an operation is most likely what called the last one like it.
            self._swept[phase, layer] += count * self._swept_since("python", phase, name)
        fresh = self.memory.add(results, kept_beside(name, args, results)) and not writes_to(func)
        if kind in ("recurrent", "recurrent_backward") and self._on_cpu:
            self.memory.take(recurrent_temporary(name, args))
        dtype, device = _computes_with(operands, results)
        about: dict[str, Any] = {
            "name": name,
            "phase": phase,
            "layer": layer,
            "dtype": dtype,
            "device": device,
            "swept": self._swept_since(phase, name),
        }
        if phase == "backward":
            self._see_function(phase, layer)
        if kind == VIEW:
            self.ops.append(Op(kind=kind, fresh=False, **about))
            return
        if phase != "optimizer":
            self._follow_weights(kind, phase, operands, results)
        if kind == "conv_backward":
            found = _conv_backward(about, *args)
            self._write_down(*found)
            self._take_backward(found, *args)
            return
        grad: Grad = ""
        sizes: tuple[int, ...] = ()
        if kind == "matmul":
            sizes = matmul_sizes(func, args)
            grad = self._product(phase, operands)
        elif kind == "conv":
            sizes = conv_sizes(args[0], args[1], results[0], groups=args[8])
            about["channels_last"] = _channels_last(args[0], args[1])
            if device == "cpu" and self._on_cpu:
                strided, last = is_strided(args[3], args[5]), about["channels_last"]
                taken = conv_temporary(
                    "", args[0], args[1], results[0], groups=args[8], strided=strided, channels_last=last
                )
                self.memory.take(taken)
        if kind == "copy" and operands and results:
            about["strided"] = operands[0].shape == results[0].shape and operands[0].stride() != results[0].stride()
        if name.startswith(ON_SEVERAL) and isinstance(args[0], (list, tuple)):
            about["parts"] = max(len(args[0]), 1)
        read, written = traffic(func, args, kwargs, operands, results)
        flops = op_flops(func, args, kwargs, out)
        self._write_down(
            Op(kind=kind, grad=grad, sizes=sizes, flops=flops, read=read, written=written, fresh=fresh, **about)
        )

    def _write_down(self, *ops: Op) -> None:
        """Writes down operations that move something."""
        self.ops += ops
        self._moved += sum(op.bytes for op in ops)

    def _swept_since(self, *what: str) -> float:
        """Returns which share of the caches was filled since something was run last; and it is run now."""
        moved = self._moved - self._ran.get(what, 0)
        self._ran[what] = self._moved
        return moved / (moved + HALF)

    def _see_function(self, phase: Phase, layer: str) -> None:
        """Writes down that a function written in Python is differentiated, once for each of its calls."""
        node = self._owners.python_function()
        if node is not None and node is not self._function:
            swept = self._swept_since("function", type(node).__name__)
            self.ops.append(
                Op(name="autograd.Function", kind=FUNCTION, phase=phase, layer=layer, swept=swept, fresh=False)
            )
            self._function = node

    def _take_backward(self, found: list[Op], grad: Tensor, input: Tensor, weight: Tensor, *rest: Any) -> None:
        """Counts the temporaries of a convolution's backward: grad_weight is computed once grad_input is there."""
        later = 0
        for op in reversed(found):
            if op.device == "cpu" and self._on_cpu:
                taken = conv_temporary(
                    op.grad,
                    input,
                    weight,
                    grad,
                    groups=rest[6],
                    strided=is_strided(rest[1], rest[3]),
                    channels_last=op.channels_last,
                )
                self.memory.take(taken - later)
            later += op.written

    def _follow_weights(self, kind: str, phase: Phase, operands: list[Tensor], results: list[Tensor]) -> None:
        """Notes what is a weight in another form: in the backward a copy or part of one, else all computed from it."""
        if kind == "embedding" or (phase == "backward" and kind not in ("copy", "indexing")):
            return
        numbers = [tensor for tensor in operands if _is_floating(tensor.dtype)]
        if numbers and all(map(self._is_weight, numbers)):
            self._weights.update(map(storage_key, results))

    def _product(self, phase: Phase, operands: list[Tensor]) -> Grad:
        """Returns which gradient a matrix product computes: of a weight, or of what was multiplied by one."""
        weighted = any(map(self._is_weight, operands))
        if phase == "backward":
            return "grad_weight" if not weighted and self._owners.differentiates_weighted() else "grad_input"
        if weighted and any(tensor.requires_grad for tensor in operands):
            self._owners.uses_weight()
        return ""

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


def _computes_with(operands: list[Tensor], results: list[Tensor]) -> tuple[str, str]:
    """Returns the type and device of the first tensor that is a number with a fraction, or of what there is."""
    first: Tensor | None = None
    for tensor in (*operands, *results):
        if _is_floating(tensor.dtype):
            first = tensor
            break
        first = tensor if first is None else first
    return ("none", "cpu") if first is None else (_type_name(first.dtype), device_type(first))


@cache
def _is_question(func: Any) -> bool:
    return name_of(func).startswith(_QUESTIONS)


@cache
def _is_floating(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point


@cache
def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
