"""Whole networks on slices, against the full network whose hidden activations are masked and scaled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from ecograph.analysis.layout import Layout, Segment
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.modules import REPLACEMENTS
from ecograph.passes.sliceout.norm import SlicedNorm
from ecograph.passes.sliceout.take import Cut
from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.record import ATTRIBUTE, Record
from ecograph.schedule import Rate, Scheduler, Ticker

#: Given a full activation and the dimension of a group's units: what the oracle makes of it.
Mask = Callable[[Tensor, int], Tensor]


class Block(nn.Module):
    """A network with one sliced group, ``"h"``."""

    units: int
    inner = 1
    checkpointed: bool | None = None

    def body(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        raise NotImplementedError

    def input(self) -> Tensor:
        raise NotImplementedError

    def layouts(self) -> dict[str, dict[str, Layout]]:
        """For each layer, the layouts of its axes."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointed is None:
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.checkpointed)  # type: ignore[no-any-return]

    def group(self) -> GroupSlice:
        found: GroupSlice = self.fc.sliced.slices["h"]
        return found


def units(outer: int, count: int, inner: int) -> Layout:
    return (Segment(outer * count * inner, "h", outer, count, inner),)


class MLP(Block):
    units = 32

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 32), nn.Linear(32, 4)

    def body(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        h = F.gelu(self.fc(x))
        return self.out(h if mask is None else mask(h, -1))

    def input(self) -> Tensor:
        return torch.randn(3, 5, 6)

    def layouts(self) -> dict[str, dict[str, Layout]]:
        return {"fc": {"out": units(1, 32, 1)}, "out": {"inp": units(1, 32, 1)}}


class Attention(Block):
    units, inner = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(6, 3 * 4 * 8), nn.Linear(4 * 8, 6, bias=False)

    def body(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        q, k, v = self.fc(x).unflatten(-1, (3, -1, 8)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(q, k, v)
        heads = heads if mask is None else mask(heads, 1)
        return self.out(heads.transpose(1, 2).flatten(2))

    def input(self) -> Tensor:
        return torch.randn(2, 5, 6)

    def layouts(self) -> dict[str, dict[str, Layout]]:
        return {"fc": {"out": units(3, 4, 8)}, "out": {"inp": units(1, 4, 8)}}


class Inverted(Block):
    """An inverted bottleneck whose last product is followed by a batch norm, which takes its scale out again."""

    units = 16

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.deep, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.out, self.bn3 = nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)

    def body(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        h = F.relu6(self.bn(self.fc(x)))
        h = F.relu6(self.bn2(self.deep(h)))
        return self.bn3(self.out(h if mask is None else mask(h, 1)))

    def input(self) -> Tensor:
        return torch.randn(4, 3, 6, 6)

    def layouts(self) -> dict[str, dict[str, Layout]]:
        h = units(1, 16, 1)
        return {
            "fc": {"out": h}, "bn": {"norm": h}, "deep": {"groups": h}, "bn2": {"norm": h},
            "out": {"inp": h}, "bn3": {"scale": h},
        }  # fmt: skip


class Flattened(Block):
    units = 16

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 9, 5)

    def body(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        h = F.max_pool2d(torch.tanh(self.fc(x)), 2)
        return self.out((h if mask is None else mask(h, 1)).flatten(1))

    def input(self) -> Tensor:
        return torch.randn(4, 3, 6, 6)

    def layouts(self) -> dict[str, dict[str, Layout]]:
        return {"fc": {"out": units(1, 16, 1)}, "out": {"inp": units(1, 16, 9)}}


BLOCKS: dict[str, type[Block]] = {"MLP": MLP, "attention": Attention, "inverted": Inverted, "flattened": Flattened}


def build(name: str, drop: float = 0.5, *, inner: float | None = None, **options: Any) -> Block:
    """A sliced network, with sparse layers inside where ``inner`` gives a drop."""
    torch.manual_seed(0)
    model = BLOCKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    rate = SliceRate(drop, options.pop("schedule", "constant"), 5)
    settings: dict[str, Any] = {"align": 4, "starts": "grid", "anchor": model, **options}
    group = GroupSlice("h", model.units, model.inner, rate, **settings)
    slices = {"h": group}
    for path, axes in model.layouts().items():
        layer = model.get_submodule(path)
        if isinstance(layer, nn.BatchNorm2d):
            cuts = [Cut(0, axes["norm"], slices)] if "norm" in axes else []
            flow = "scale" in axes and group.normalization == "flow"
            layer.sliced = SlicedNorm(path, cuts=cuts, scale_of=group if flow else None)
        else:
            sparse = None
            if inner is not None:
                channels = getattr(layer, "out_channels", None) or layer.out_features
                sparse = SparseLayer(
                    path, Rate(inner, "constant"), channels=channels, grads=("input", "weight"), random=False,
                    unbiased=False, align=1, dense_because="",
                )  # fmt: skip
            cancelled = path == "out" and "bn3" in model.layouts() and group.normalization == "flow"
            scaled = "inp" in axes and not cancelled
            layer.sliced = SlicedLayer(path, rate=rate, slices=slices, scaled=scaled, inner=sparse, **axes)
        layer.__class__ = REPLACEMENTS[type(layer)]
    model.register_forward_pre_hook(Ticker([rate]))
    model.__dict__[ATTRIBUTE] = Record((), [rate], [rate.mix], [], None, [])
    return model


def plain(name: str, like: Block) -> Block:
    model = BLOCKS[name]()
    model.load_state_dict(like.state_dict())
    model.to(next(like.parameters()).dtype)
    return model


def masked(group: GroupSlice) -> Mask:
    """Multiplies the units outside the slice by zero, and those inside by their scale."""
    factors = torch.zeros(group.units, dtype=torch.float64)
    factors[group.start : group.start + group.width] = group.scale()

    def mask(h: Tensor, dim: int) -> Tensor:
        each = factors.repeat_interleave(h.shape[dim] // group.units)
        return h * each.to(h.dtype).view(*[each.numel() if i == dim % h.ndim else 1 for i in range(h.ndim)])

    return mask


@pytest.mark.parametrize("normalization", ["flow", "probability"])
@pytest.mark.parametrize("drop", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_sliced_step_is_the_masked_full_step(name: str, drop: float, normalization: str) -> None:
    model = build(name, drop, normalization=normalization).double()
    group = model.group()
    reference = plain(name, model)
    for _ in range(4):
        buffers = copy.deepcopy(dict(reference.named_buffers()))
        x = model.input().double().requires_grad_()
        twin = x.detach().clone().requires_grad_()
        found = model(x)
        assert group.active
        expected = reference.body(twin, masked(group))
        torch.testing.assert_close(found, expected)
        cotangent = torch.randn_like(expected)
        for each in (model, reference):
            each.zero_grad()
        found.backward(cotangent)
        expected.backward(cotangent)
        torch.testing.assert_close(x.grad, twin.grad)
        for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
        kept = torch.zeros(group.units, dtype=torch.bool)
        kept[group.start : group.start + group.width] = True
        for key, value in model.named_buffers():
            theirs = dict(reference.named_buffers())[key]
            if normalization == "flow" and key == "bn3.running_var":  # takes on the scale, not its square
                theirs.copy_(0.9 * buffers[key] + (theirs - 0.9 * buffers[key]) / group.scale())
            if value.shape == (group.units,):  # the statistics of channels that were not computed stay
                theirs.copy_(torch.where(kept, theirs, buffers[key]))
            torch.testing.assert_close(value, theirs)


@pytest.mark.parametrize("name", BLOCKS)
def test_eval_is_the_full_network(name: str) -> None:
    model = build(name).eval()
    reference = plain(name, model).eval()
    x = model.input()
    assert torch.equal(model(x), reference(x))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("normalization", ["flow", "probability"])
@pytest.mark.parametrize("name", ["MLP", "attention", "flattened"])
def test_checkpointing_computes_the_same_slice_again(name: str, normalization: str, reentrant: bool) -> None:
    model, twin = (build(name, normalization=normalization) for _ in range(2))
    model.checkpointed = reentrant
    for _ in range(3):
        x = model.input().requires_grad_()
        for each in (model, twin):
            each.zero_grad()
            each(x).square().sum().backward()
        assert torch.equal(model.group().rate.draws, twin.group().rate.draws)
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("normalization", ["flow", "probability"])
@pytest.mark.parametrize("name", BLOCKS)
def test_compiled_whole_and_once(name: str, normalization: str) -> None:
    torch._dynamo.reset()
    model, twin = (build(name, normalization=normalization, starts="any", align=1).double() for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    starts, compilations = set(), 0
    for step in range(20):
        x = model.input().double()
        for each in (model, twin):
            each.zero_grad()
        found, expected = compiled(x), twin(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        found.square().sum().backward()
        expected.square().sum().backward()
        for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-6)
            assert mine.grad.stride() == mine.stride()
        for mine, theirs in zip(model.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
        starts.add(twin.group().start)
        assert model.group().start == twin.group().start
        compilations = counter.frame_count if step == 0 else compilations
    assert len(starts) > 2
    assert counter.frame_count == compilations <= 2, "Dynamo compiles the hook by itself"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_schedule_of_two_rates_is_compiled_twice() -> None:
    torch._dynamo.reset()
    model, twin = (build("MLP", schedule="alternate") for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    counts = []
    for _ in range(8):
        x = model.input()
        torch.testing.assert_close(compiled(x), twin(x))
        assert model.group().rate.now == twin.group().rate.now
        counts.append(counter.frame_count)
    assert counts[1] == counts[-1] <= 4


@pytest.mark.parametrize("name", BLOCKS)
def test_autocast(name: str) -> None:
    model, wide = build(name), build(name).double()
    x = model.input()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    expected = wide(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=0.1, atol=0.1 * expected.abs().max().item())
    found.float().square().sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.shape == p.shape for p in model.parameters()} == {True}


def test_channels_last_in_and_out() -> None:
    model = build("inverted").to(memory_format=torch.channels_last)
    found = model(model.input().to(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    found.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("name", ["MLP", "flattened"])
def test_with_a_sparse_backward_inside(name: str) -> None:
    """The gradient of the small network's masked dense backward: layer by layer, its strongest channels."""
    model, dense = build(name, inner=0.5).double(), build(name).double()
    x = model.input().double()
    found, expected = model(x), dense(x)
    torch.testing.assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    dim = -1 if name == "MLP" else 1
    scores = cotangent.abs().movedim(dim, 0).flatten(1).sum(1)
    keep = scores.topk(int(scores.numel() * 0.5)).indices
    masked_out = torch.zeros_like(cotangent).index_copy(dim, keep, cotangent.index_select(dim, keep))
    found.backward(cotangent)
    expected.backward(masked_out)
    torch.testing.assert_close(model.out.weight.grad, dense.out.weight.grad)
    torch.testing.assert_close(model.out.bias.grad, dense.out.bias.grad)
    rows = model.fc.bias.grad.count_nonzero()
    assert rows == model.group().width // 2, "half of the slice's own channels"
    kept = model.fc.bias.grad != 0
    torch.testing.assert_close(model.fc.bias.grad[kept], dense.fc.bias.grad[kept])
    torch.testing.assert_close(model.fc.weight.grad[kept], dense.fc.weight.grad[kept])


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", BLOCKS)
def test_copies_train_alike_and_apart(name: str, how: str) -> None:
    model = build(name)
    x = model.input()
    model(x)
    twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(model(x), twin(x))
    twin.eval()
    assert model.group().active
    assert not twin.group().active
    assert list(model.state_dict()) == list(BLOCKS[name]().state_dict())


def test_with_a_scheduler_draws_follow_its_steps_also_after_a_resume() -> None:
    def run(model: Block, scheduler: Scheduler, steps: int) -> list[tuple[float, int]]:
        seen = []
        for _ in range(steps):
            for _ in range(2):  # gradients are accumulated on one slice
                model(model.input()).sum().backward()
                seen.append((model.group().rate.now, int(model.group().rate.draws)))
            scheduler.step()
        return seen

    plan: dict[str, Any] = {"epochs": 4, "steps_per_epoch": 3}
    model = build("MLP", schedule="linear")
    scheduler = Scheduler(model, **plan)
    whole = run(model, scheduler, 12)
    assert whole[::2] == whole[1::2]
    assert len({draw for _, draw in whole}) == 12

    model = build("MLP", schedule="linear")
    scheduler = Scheduler(model, **plan)
    run(model, scheduler, 5)
    state = scheduler.state_dict()
    other = build("MLP", schedule="linear")
    resumed = Scheduler(other, **plan)
    resumed.load_state_dict(state)
    assert run(other, resumed, 7) == whole[10:]


def test_training_lowers_the_loss_of_the_full_network() -> None:
    model = build("MLP", normalization="flow")
    x, target = torch.randn(64, 6), torch.randn(64, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = F.mse_loss(model.eval()(x), target)
    for _ in range(150):
        model.train()
        optimizer.zero_grad()
        F.mse_loss(model(x), target).backward()
        optimizer.step()
    assert F.mse_loss(model.eval()(x), target) < 0.8 * before
