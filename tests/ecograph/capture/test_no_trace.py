"""Capture leaves no trace: not on the model, not on the process."""

from __future__ import annotations

import copy
import gc
import logging
import random
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._dynamo.guards import DeletedGuardManagerWrapper
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from ecograph.capture import capture


class Busy(nn.Module):
    """Changes whatever a forward can change about its own module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0
        self.history: list[int] = []
        self.last: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.history.append(x.shape[0])
        self.seen.add_(1)
        self.last = self.drop(self.norm(self.conv(x)))
        return self.last


class Broken(Busy):
    """The same, with Python in the middle that Dynamo cannot capture."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        torch._dynamo.graph_break()
        return x.relu()


class Dependent(Busy):
    """The same, with Python that depends on values, so that it is run for real."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        random.random()
        np.random.rand()
        return x * 2 if x.sum().item() > 0 else x


class Untraceable(Busy):
    """The same, unable to run under Dynamo at all, so that it is traced symbolically."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            raise RuntimeError("not under a compiler")
        return super().forward(x)


def snapshot(model: Busy) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "tensors": {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()},
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
        "grads": [p.grad for p in model.parameters()],
        "python": (model.calls, list(model.history), model.last),
        "training": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    torch.testing.assert_close(before.pop("state"), after.pop("state"), rtol=0, atol=0)
    assert before == after


@pytest.mark.parametrize("kind", [Busy, Broken, Dependent, Untraceable])
@pytest.mark.parametrize("inputs", [torch.randn(2, 3, 8, 8), None], ids=["inputs", "no inputs"])
def test_the_model_is_as_before(kind: Callable[[], Busy], inputs: Any) -> None:
    model = kind()
    model.norm.eval()  # a mixture of training flags
    before = snapshot(model)
    assert capture(model, inputs).graphs
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("kind", [Busy, Broken, Dependent, Untraceable])
@pytest.mark.parametrize("inputs", [torch.randn(2, 3, 8, 8), None], ids=["inputs", "no inputs"])
def test_random_states_are_as_before(kind: Callable[[], Busy], inputs: Any) -> None:
    model = kind()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = (torch.rand(3).tolist(), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    capture(model, inputs)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == before


def test_the_model_still_trains_as_it_would_have() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = Busy()
    twin = copy.deepcopy(model)
    capture(model, x)
    results = []
    for each in (model, twin):
        torch.manual_seed(0)
        out = each(x)
        out.sum().backward()
        results.append([out, *(p.grad for p in each.parameters()), *each.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_hooks_run_on_the_copy_and_so_do_the_lists_they_write_to() -> None:
    model = Busy()
    collected: list[torch.Tensor] = []
    model.conv.register_forward_hook(lambda module, args, output: collected.append(output))
    capture(model, torch.randn(2, 3, 8, 8))
    capture(model)
    assert collected == []
    model(torch.randn(2, 3, 8, 8))
    assert len(collected) == 1


def test_a_forward_that_was_wrapped_runs_on_the_copy() -> None:
    model = Busy()
    inner = model.forward  # bound to the original model

    def wrapped(x: torch.Tensor) -> torch.Tensor:
        return inner(x)

    model.forward = wrapped  # type: ignore[method-assign]
    before = snapshot(model)
    captured = capture(model, torch.randn(2, 3, 8, 8))
    assert_same(before, snapshot(model))
    assert captured.parts[0].method == "dynamo"
    assert model.forward is wrapped


def test_tensors_with_a_graph_beside_the_parameters_are_no_obstacle() -> None:
    model = Busy()
    x = torch.randn(2, 3, 8, 8)
    model(x)
    assert model.last is not None
    assert not model.last.is_leaf
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    assert capture(model, x).parts[0].method == "dynamo"
    assert capture(model).graphs


def test_warnings_logging_and_grad_mode_are_as_before() -> None:
    names = ("torch._dynamo", "torch._subclasses", "torch.fx", "torch")
    before = (list(warnings.filters), [logging.getLogger(n).level for n in names])
    with torch.no_grad():
        capture(Broken(), torch.randn(2, 3, 8, 8))
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert (list(warnings.filters), [logging.getLogger(n).level for n in names]) == before


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Loud(Busy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            print("forward", x.shape)
            warnings.warn("a warning of the model", stacklevel=2)
            logging.getLogger("model").warning("a message of the model")
            return super().forward(x)

    captured = capture(Loud(), torch.randn(2, 3, 8, 8))
    assert len(captured.graphs) == 1, "a message is no reason to cut the graph"
    output = capfd.readouterr()
    assert output.out == output.err == ""


def test_it_needs_neither_grad_mode_nor_leave_to_make_normal_tensors() -> None:
    x, model = torch.randn(2, 3, 8, 8), Busy()
    with torch.inference_mode():
        in_inference = capture(model, x)
    with torch.no_grad():
        without_grad = capture(model, x)
    for captured in (in_inference, without_grad):
        conv = next(n for n in captured.graphs[0].nodes if n.target is torch.conv2d)
        assert conv.meta["example_value"].requires_grad


# -- Dynamo ------------------------------------------------------------------------------------------------------------


def live_entries(function: Any) -> int:
    """How many compilations of a function Dynamo still counts and uses."""
    entries = _debug_get_cache_entry_list(function.__code__)
    return sum(not isinstance(entry.guard_manager, DeletedGuardManagerWrapper) for entry in entries)


# torch's own: Dynamo asks a non-leaf tensor for its gradient, and hides the warning only where warnings are no errors.
non_leaf = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@non_leaf
@pytest.mark.parametrize("kind", [Busy, Broken])
def test_another_instance_stays_compiled(kind: type[Busy]) -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 3, 8, 8)
    counter = CompileCounter()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    compiled_other = torch.compile(other, backend=counter)
    compiled_other(x)
    twin = kind()
    compiled_twin = torch.compile(twin, backend=counter)
    for _ in range(3):  # counters in the model make the first runs differ
        compiled_twin(x)
    compilations, entries = counter.frame_count, live_entries(kind.forward)
    capture(kind(), x)
    assert live_entries(kind.forward) == entries
    compiled_other(x)
    assert counter.frame_count == compilations
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x)
        torch._dynamo.graph_break()
        return x.relu()


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@non_leaf
def test_a_compiled_model_with_graph_breaks_is_not_recompiled() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 8)
    counter = CompileCounter()
    compiled = torch.compile(Stack(), backend=counter)
    compiled(x)
    compiled(x)
    compilations = counter.frame_count
    entries = live_entries(Block.forward), live_entries(Stack.forward)
    for _ in range(3):
        assert len(capture(Stack(), x).graphs) > 1
    assert (live_entries(Block.forward), live_entries(Stack.forward)) == entries
    compiled(x)
    assert counter.frame_count == compilations
    torch._dynamo.reset()


def test_captures_leave_no_cache_entries_behind() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 8)
    for _ in range(10):  # more often than Dynamo's limit on recompilations
        assert len(capture(Stack(), x).graphs) > 1
        assert len(_debug_get_cache_entry_list(Block.forward.__code__)) == 0
        assert len(_debug_get_cache_entry_list(Stack.forward.__code__)) == 0


@pytest.mark.parametrize("kind", [Stack, Busy])
def test_nothing_of_a_capture_outlives_it(kind: type[nn.Module]) -> None:
    x = torch.randn(2, 8) if kind is Stack else torch.randn(2, 3, 8, 8)
    capture(kind(), x)  # what torch itself keeps, it keeps after the first time
    gc.collect()
    captured = capture(kind(), x)
    graphs = [weakref.ref(graph.module) for graph in captured.graphs]
    modules = [weakref.ref(module) for module in captured.graphs[0].module.modules()]
    del captured
    gc.collect()
    assert [ref() for ref in (*graphs, *modules)] == [None] * len((*graphs, *modules))


def test_no_names_are_left_in_the_modules_of_the_users_code() -> None:
    before = set(globals())
    capture(Stack(), torch.randn(2, 8))
    assert set(globals()) <= before


def test_a_model_can_be_compiled_whole_after_a_capture() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    capture(model, x)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    assert torch.equal(compiled(x), model(x))
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_dynamos_statistics_are_as_before() -> None:
    counters["graph_break"]["of another model"] = 7
    before = {name: dict(counter) for name, counter in counters.items()}
    capture(Stack(), torch.randn(2, 8))
    assert {name: dict(counter) for name, counter in counters.items()} == before
    counters.clear()


@pytest.mark.parametrize("setting", ["error_on_recompile", "fail_on_recompile_limit_hit", "suppress_errors"])
def test_the_users_settings_of_dynamo_neither_matter_nor_change(setting: str) -> None:
    from torch._dynamo import config

    with config.patch(**{setting: True}):
        assert len(capture(Stack(), torch.randn(2, 8)).graphs) > 1
        assert getattr(config, setting) is True


def test_a_stance_against_compiling_does_not_matter() -> None:
    with torch.compiler.set_stance("force_eager"):
        captured = capture(Stack(), torch.randn(2, 8))
    assert captured.parts[0].method == "dynamo"
