"""What share of a dense training step is the backward of given layers, and how much memory a step holds at its peak."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

_MARK = "rewritten layer"
_NODE = "autograd::engine::evaluate_function: "


def backward_share(model: nn.Module, layers: Iterable[str], step: Callable[[], Any], steps: int = 5) -> float:
    """Returns the profiler's time in the backward of ``layers`` as a share of its time in the whole step.

    The forward calls of the layers are marked; autograd nodes carry the sequence number of the forward operation they
    belong to, so the backward nodes of exactly these layers are found.

    Args:
        model: the dense model.
        layers: names of the modules that a pass would rewrite.
        step: one training step of ``model``.
        steps: how many are profiled.
    """
    open_marks: list[Any] = []

    def enter(*_: Any) -> None:
        mark = record_function(_MARK)
        mark.__enter__()
        open_marks.append(mark)

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    hooks = []
    for name in layers:
        module = model.get_submodule(name)
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    try:
        step()
        with profile(activities=activities) as profiler:
            for _ in range(steps):
                step()
    finally:
        for hook in hooks:
            hook.remove()

    def time(event: Any) -> float:
        return float(event.device_time_total if torch.cuda.is_available() else event.cpu_time_total)

    events = list(profiler.events())
    marked = {e.sequence_nr for e in events if e.sequence_nr >= 0 and _inside(e, _MARK)}
    ours = sum(time(e) for e in events if e.name.startswith(_NODE) and e.sequence_nr in marked)
    roots = [e for e in events if e.cpu_parent is None and not e.is_user_annotation]
    total = sum(time(e) for e in roots)
    total += sum(time(e) for e in events if e.cpu_parent is None and e.name == _MARK)
    return ours / total


def _inside(event: Any, name: str) -> bool:
    while event is not None:
        if event.name == name:
            return True
        event = event.cpu_parent
    return False


def activation_memory(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Returns the bytes that a forward keeps for its backward, but for parameters and buffers and views of them.

    Args:
        model: whose parameters and buffers do not count.
        forward: runs it.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # held until all is counted
    total = sum(storage.nbytes() for storage in kept.values())
    del result
    return total


def peak_memory(step: Callable[[], Any]) -> int:
    """Returns the most bytes that tensors made during ``step`` held at once, by torch's own account."""
    step()  # so that gradients and optimizer state are there in every comparison
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
