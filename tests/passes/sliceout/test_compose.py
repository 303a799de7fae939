"""SliceOut with what else a training has: a sparse backward, dropout, mixed precision, checkpointing, compilation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from slices import Gpt, build, call, differing, slices, starts, step
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import ecograph
from ecograph.passes import SliceOut, SparseBackward

#: Tracing and compiling, torch calls what it has deprecated itself.
compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def sliced(model: nn.Module, x: Any, rate: float = 0.5, *, others: Any = (), **options: Any) -> nn.Module:
    passes = [SliceOut(rate, **{"min_width": 8, "when": "always", **options}), *others]
    return ecograph.optimize(model, example_inputs=x, passes=passes)


def sparse(drop: float = 0.5, **options: Any) -> SparseBackward:
    settings = {"schedule": "constant", "when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}
    return SparseBackward(drop, **{**settings, **options})


# Sparse backward


class Strongest(torch.autograd.Function):
    """Passes the forward on; of the gradient, the strongest channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, keep: int) -> Tensor:
        ctx.dim, ctx.keep = dim, keep
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        scores = grad.abs().movedim(ctx.dim, 0).flatten(1).sum(1)
        kept = scores.topk(ctx.keep).indices
        return torch.zeros_like(grad).index_copy(ctx.dim, kept, grad.index_select(ctx.dim, kept)), None, None


@pytest.mark.parametrize("order", ["slices first", "slices last"])
@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "routed"])
def test_with_sparse_backward_gradients_are_the_small_networks_masked_ones(name: str, order: str) -> None:
    """The oracle: the sliced network alone, whose products pass on the gradient of their strongest channels."""
    (model, x), (reference, _) = build(name, torch.float64), build(name, torch.float64)
    passes = [SliceOut(0.5, min_width=8, when="always"), sparse(0.5)]
    ecograph.optimize(model, example_inputs=x, passes=passes if order == "slices first" else passes[::-1])
    sliced(reference, x)
    kinds = {"addmm": -1, "linear": -1, "conv2d": 1}

    class Masking(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = func(*args, **(kwargs or {}))
            name = getattr(func, "__name__", "")
            if name in kinds:
                return Strongest.apply(output, kinds[name], int(output.shape[kinds[name]] * 0.5))
            return output

    for _ in range(3):
        found = step(model, x)
        with Masking():
            expected = step(reference, x)
        assert starts(model) == starts(reference)
        assert not differing(found, expected)
        bias = next((key for key in ("grad up.bias", "grad shift") if key in found), None)
        if bias is not None:
            assert found[bias].count_nonzero() == len(found[bias]) // 4, "half of the slice"


def test_explain_shows_what_each_of_two_passes_saves() -> None:
    model, x = build("MLP")
    sliced(model, x, others=[sparse(0.5)])
    report = ecograph.explain(model)
    mid = next(layer for layer in report.layers if layer.name == "mid")
    full = 2 * 6 * 64 * 32
    assert mid.rewritten_by == "sliceout + sparse_backward"
    assert (mid.before.forward, mid.before.backward) == (full, 2 * full)
    assert (mid.after.forward, mid.after.grad_input, mid.after.grad_weight) == (full // 4, full // 8, full // 8)
    assert mid.saved == {"sliceout": 3 * full - 3 * full // 4, "sparse_backward": full // 4}
    assert report.before.total - report.after.total == sum(map(report.saved_by, ("sliceout", "sparse_backward"))) > 0


def test_both_follow_one_scheduler() -> None:
    model, x = build("MLP")
    sliced(model, x, others=[sparse(0.5, schedule="bar")], schedule="alternate")
    scheduler = ecograph.Scheduler(model, epochs=4, steps_per_epoch=1)
    zeros = []
    for _ in range(4):
        step(model, x)
        zeros.append(int(model.up.bias.grad.eq(0).sum()))
        scheduler.step()
    assert zeros == [0, 32, 32, 48]


# Dropout, mixed precision, memory format


def test_dropout_drops_what_the_slice_keeps() -> None:
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 5)).double()
    x = torch.randn(6, 12, dtype=torch.float64)
    plain = copy.deepcopy(model)
    sliced(model, x)
    torch.manual_seed(7)
    found = model(x)
    (group,) = slices(model).values()
    kept = slice(group.start, group.start + group.width)
    torch.manual_seed(7)
    hidden = F.dropout(F.linear(x, plain[0].weight[kept], plain[0].bias[kept]).relu(), 0.5)
    torch.testing.assert_close(found, F.linear(hidden, plain[3].weight[:, kept] * 2, plain[3].bias))


@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "GPT", "routed", "inverted"])
def test_autocast_trains_in_bfloat16_with_gradients_in_float32(name: str) -> None:
    (model, x), (wide, _) = build(name), build(name)
    for each in (model, wide):
        sliced(each, x, others=[sparse(0.5)])
    with torch.autocast("cpu", torch.bfloat16):
        found = call(model, x)
    expected = call(wide, x)
    assert starts(model) == starts(wide)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.15 * expected.abs().max().item())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = call(model, x).float().square().mean()
        loss.backward()
        assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()


@pytest.mark.parametrize("name", ["Wide ResNet", "inverted"])
def test_channels_last_in_and_out(name: str) -> None:
    model, x = build(name)
    model = model.to(memory_format=torch.channels_last)
    sliced(model, x)
    checked = []

    def check(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2] > 1:
            assert output.is_contiguous(memory_format=torch.channels_last), type(module)
            checked.append(module)

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(check)
    step(model, x.to(memory_format=torch.channels_last))
    assert len(checked) >= 8
    for parameter in model.parameters():
        assert parameter.grad.stride() == parameter.stride()


# Checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("when", ["before", "after"])
def test_checkpointed_blocks_compute_the_same_slices_again(reentrant: bool, when: str) -> None:
    runs = []
    for use in (None, reentrant):
        model, x = build("GPT", torch.float64)
        if when == "before":
            model.reentrant = use
        sliced(model, x, schedule="alternate", others=[sparse(0.5)], starts="any", align=1)
        model.reentrant = use
        assert len(slices(model)) == 4
        found = []
        for _ in range(6):
            found.append(step(model, x))
            found[-1]["starts"] = torch.tensor(starts(model))
        runs.append(found)
    for plain, again in zip(*runs, strict=True):
        assert not differing(again, plain)
        assert torch.equal(again["starts"], plain["starts"])
    assert len({tuple(found["starts"].tolist()) for found in runs[0]}) > 2


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_of_hugging_face(reentrant: bool) -> None:
    runs = []
    for enable in (False, True):
        model, x = build("GPT-2", torch.float64)
        if enable:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        sliced(model, x)
        assert len(slices(model)) == 4
        runs.append([step(model, x) for _ in range(3)])
    for plain, again in zip(*runs, strict=True):
        assert not differing(again, plain)


# torch.compile


def steps(model: nn.Module, batches: list[Tensor], scheduler: Any = None) -> list[dict[str, Tensor]]:
    found = []
    for batch in batches:
        found.append({key.replace("_orig_mod.", ""): value for key, value in step(model, batch).items()})
        if scheduler is not None:
            scheduler.step()
    return found


@compiling
@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("MLP", None), ("MLP", "constant"), ("MLP", "alternate"), ("Wide ResNet", "alternate"), ("GPT", None),
        ("GPT", "alternate"), ("routed", None), ("inverted", "constant"),
    ],
)  # fmt: skip
def test_compiled_whole_many_starts_compile_at_most_twice(name: str, schedule: str | None) -> None:
    eager, x = build(name, torch.float64)
    sliced(eager, x, starts="any", align=1, schedule=schedule or "constant")
    model = copy.deepcopy(eager)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    schedulers = [
        ecograph.Scheduler(each, epochs=30, steps_per_epoch=1) if schedule else None for each in (eager, compiled)
    ]
    seen = set()
    for _ in range(30):
        (expected,), (found,) = steps(eager, [x], schedulers[0]), steps(compiled, [x], schedulers[1])
        assert not differing(found, expected, 1e-4)
        seen.add(starts(eager))
        assert starts(model) == starts(eager)
    assert len(seen) > (2 if name == "routed" else 10)
    assert counter.frame_count <= 2


@compiling
def test_compiled_with_sparse_backward_and_slices_of_optimizer_steps() -> None:
    torch.manual_seed(0)
    eager, x = Gpt(depth=1).double(), torch.randint(0, 31, (3, 10))
    options = {"starts": "any", "align": 1, "normalization": "probability", "update": "slice"}
    sliced(eager, x, others=[sparse(0.5)], **options)
    model = copy.deepcopy(eager)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-3) for each in (eager, model)]
    for _ in range(6):
        (expected,), (found,) = steps(eager, [x]), steps(compiled, [x])
        assert not differing(found, expected, 1e-4)
        for optimizer in optimizers:
            optimizer.step()
    assert counter.frame_count <= 2
    for mine, theirs in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@compiling
def test_compiled_other_batch_sizes_do_not_bring_a_compilation_per_start() -> None:
    eager = Gpt(depth=1).double()
    batches = [torch.randint(0, 31, (n, t)) for n, t in [(4, 8), (4, 8), (3, 6), (4, 8), (2, 5), (5, 7), (3, 6)]]
    sliced(eager, batches[0], starts="any", align=1)
    model = copy.deepcopy(eager)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for batch in batches:
        (expected,), (found,) = steps(eager, [batch]), steps(compiled, [batch])
        assert not differing(found, expected, 1e-4)
    assert counter.frame_count <= 3, "once more for sizes that vary"


@compiling
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_by_inductor() -> None:
    eager = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 5))
    x = torch.randn(6, 12)
    sliced(eager, x, starts="any", align=1)
    model = copy.deepcopy(eager)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    seen = set()
    for _ in range(8):
        (expected,), (found,) = steps(eager, [x]), steps(compiled, [x])
        assert not differing(found, expected, 1e-4)
        seen.add(starts(eager))
    assert len(seen) > 4
    assert counter.frame_count <= 2
