"""Recording a training step: forward, loss, backward and the optimizer's step, on a copy that holds no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ecograph.capture.copying import Copies, copy_module, fake_copy
from ecograph.capture.inputs import Inputs, device_of, move, normalize
from ecograph.capture.quiet import first_line, silent, untouched_random_state
from ecograph.cost.steps.kinds import UNCOUNTED
from ecograph.cost.steps.op import Op
from ecograph.cost.steps.optimizer import record_optimizer
from ecograph.cost.steps.owners import Owners
from ecograph.cost.steps.recorder import Recorder
from ecograph.record import records

#: From what a model returns to the loss.
LossOf = Callable[[Any], Tensor]

AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


def amp_type(amp: str | None) -> torch.dtype | None:
    """Returns the type of a precision's products under autocast; None for none.

    Raises:
        ValueError: for a precision that there is not.
    """
    if amp is not None and amp not in AMP:
        raise ValueError(f"amp={amp!r}: give {', '.join(AMP)} or None")
    return None if amp is None else AMP[amp]


@dataclass(frozen=True)
class Step:
    """All that a training step runs.

    Attributes:
        ops: in their order.
        activation_bytes: the most that forward and backward keep at once, beside parameters, buffers and inputs;
            gradients are in it.
        state_bytes: of the optimizer's state.
        parameter_bytes: of parameters and buffers.
        types: path of each module -> name of its class.
        note: how the step was run, where not on fake tensors.
    """

    ops: tuple[Op, ...]
    activation_bytes: int
    state_bytes: int
    parameter_bytes: int
    types: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def flops(self) -> int:
        """Floating-point operations of all products."""
        return sum(op.flops * op.count for op in self.ops)

    @property
    def uncounted(self) -> dict[str, int]:
        """Operations of which nothing is known but their bytes, and how often each runs."""
        found: dict[str, int] = {}
        for op in self.ops:
            if op.kind == UNCOUNTED:
                found[op.name] = found.get(op.name, 0) + op.count
        return found


def record_step(
    model: nn.Module,
    example_inputs: Any,
    *,
    loss: LossOf | None = None,
    optimizer: Any = None,
    amp: str | None = None,
    rates: Mapping[str, float] | None = None,
    elsewhere: bool = False,
) -> Step:
    """Records a training step of ``model``. Nothing is computed, and the model is left as it is.

    Args:
        model: in any state; the step is one of training. On any device, ``meta`` included, which counts as the CPU.
        example_inputs: as ``ecograph.optimize`` takes them.
        loss: from what the model returns to a number. None: the model's own where it returns one (``.loss``), or else
            the mean of the squares of what it returns, which costs next to nothing. Where nothing has a gradient, since
            all parameters are frozen, there is no backward in the step.
        optimizer: a class of ``torch.optim``, a function that returns an optimizer of a list of parameters, or an
            optimizer, whose class and options count. None leaves its step out.
        amp: ``"bf16"`` or ``"fp16"`` for a forward under autocast.
        rates: pass -> the rate at which it acts, for an optimized model. Those that are not named act at their peak.
        elsewhere: whether a model on the CPU will run on a GPU, where what kernels of the CPU take is not counted.

    Raises:
        ValueError: for inputs, an ``amp`` or a pass that there is not; for a model on the meta device whose forward
            depends on data; for one that returns no number with a fraction, and no ``loss`` to make one.
        Exception: whatever the model raises on these inputs.
    """
    dtype = amp_type(amp)
    inputs = normalize(example_inputs)
    if inputs is None:
        raise ValueError("a step cannot be recorded without example_inputs: give what you would pass to model(...)")
    inputs = move(inputs, device_of(model))
    # Compiled parts run as they were written, so that every operation is seen and no compiler keeps a copy.
    with silent(), untouched_random_state(model), torch.inference_mode(False), torch.compiler.set_stance("force_eager"):
        try:
            return _record(fake_copy(model, inputs), loss, optimizer, dtype, rates, elsewhere, "")
        except ValueError:
            raise
        except Exception as error:
            if any(p.is_meta for p in model.parameters()):
                _explain_meta(error)
                raise
            note = f"ran on the example inputs, since it did not run without data: {first_line(error)}"
        return _record(_real_copy(model, inputs), loss, optimizer, dtype, rates, elsewhere, note)


def _explain_meta(error: Exception) -> None:
    """Says what to do about a model on the meta device whose forward asks for data."""
    from torch._subclasses import fake_tensor as fake

    asks = (fake.DataDependentOutputException, fake.DynamicOutputShapeException, fake.UnsupportedOperatorException)
    if isinstance(error, asks):
        raise ValueError(
            f"the model's forward depends on data ({first_line(error)}), which a model on the meta device does not "
            "have: make it on the CPU, in a smaller configuration if need be"
        ) from error


def _record(
    copies: Copies,
    loss: LossOf | None,
    optimizer: Any,
    amp: torch.dtype | None,
    rates: Mapping[str, float] | None,
    elsewhere: bool,
    note: str,
) -> Step:
    model, (args, kwargs), mode = copies
    model.train()
    _set_rates(model, rates or {})
    parameters = list(model.parameters())
    inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    held = [*parameters, *model.buffers()]
    device = next((p.device.type for p in held), "cpu")
    state = 0
    with mode, torch.enable_grad(), Owners(model) as owners:
        recorder = Recorder(owners, list(parameters), [*held, *inputs], on_cpu=not elsewhere)
        with recorder:
            with torch.autocast(device, dtype=amp) if amp else nullcontext():
                outputs = model(*args, **kwargs)
                value = (loss or mean_square)(outputs)
            if value.requires_grad:
                value.backward()  # type: ignore[no-untyped-call]
            recorder.write_python()
            del outputs, value
            peak = recorder.memory.peak
            if optimizer is not None:
                ops, state = record_optimizer(recorder, optimizer, parameters)
                recorder.ops += ops
    return Step(
        ops=tuple(recorder.ops),
        activation_bytes=peak,
        state_bytes=state,
        parameter_bytes=sum(tensor.nbytes for tensor in held),
        types={path: type(module).__name__ for path, module in model.named_modules()},
        note=note,
    )


def mean_square(outputs: Any) -> Tensor:
    """Returns the model's own loss where it returns one, or else the mean of the squares of its outputs."""
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(own, Tensor):
        return own
    found = [leaf for leaf in _leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise ValueError("the model returns no tensor to train on: give loss, a function of what it returns")
    return torch.stack([tensor.float().square().mean() for tensor in found]).sum()


def _leaves(outputs: Any) -> list[Any]:
    """Returns what is in outputs, also in the dataclasses that Hugging Face's models return."""
    found = pytree.tree_leaves(dict(outputs) if isinstance(outputs, Mapping) else outputs)
    return [leaf for each in found for leaf in ([each] if isinstance(each, Tensor) else _fields(each))]


def _fields(value: Any) -> list[Any]:
    return pytree.tree_leaves(list(vars(value).values())) if hasattr(value, "__dict__") else []


def _real_copy(model: nn.Module, inputs: Inputs) -> Copies:
    args, kwargs = pytree.tree_map_only(Tensor, _own, inputs)
    return copy_module(model, share_parameters=False), (args, kwargs), nullcontext()


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _set_rates(model: nn.Module, rates: Mapping[str, float]) -> None:
    """Has the passes of an optimized model act at these rates, or at their peak."""
    known: list[str] = []
    for record in records(model):
        for options, rate in zip(record.passes, record.rates, strict=True):
            known.append(options["name"])
            rate.scheduled = True
            rate.without_data()
            rate.set(rates.get(options["name"], rate.peak))
    unknown = [name for name in rates if name not in known]
    if unknown:
        there = ", ".join(known) or "none"
        raise ValueError(f"rates[{unknown[0]!r}]: no pass of this name is on the model; there are {there}")
