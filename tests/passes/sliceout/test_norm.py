from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from ecograph.analysis.layout import Segment
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.norm import SlicedNorm, sliced_batch_norm
from ecograph.passes.sliceout.take import Cut

LAYOUTS = {
    "one": (Segment(12, "g", 1, 12, 1),),
    "blocks": (Segment(24, "g", 2, 12, 1),),
    "joined": (Segment(3), Segment(12, "g", 1, 12, 1)),
}


def cut(name: str = "one") -> tuple[Cut, GroupSlice]:
    group = GroupSlice("g", 12, 1, SliceRate(0.5, "constant"), align=1, starts="any")
    group.rate.tick()
    return Cut(0, LAYOUTS[name], {"g": group}), group


def tensors(size: int, affine: bool = True, tracked: bool = True) -> list[Tensor | None]:
    torch.manual_seed(1)
    made: list[Tensor | None] = [torch.randn(size).double(), torch.rand(size).double() + 0.5]
    made = made if tracked else [None, None]
    return made + [torch.randn(size).double().requires_grad_() if affine else None for _ in range(2)]


@pytest.mark.parametrize(
    ("tracked", "training"), [(True, True), (True, False), (False, True)], ids=["training", "frozen", "untracked"]
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.0, 1.7])
@pytest.mark.parametrize("name", LAYOUTS)
def test_it_is_the_batch_norm_of_those_channels(
    name: str, scale: float, affine: bool, tracked: bool, training: bool, elements: Any
) -> None:
    """Torch's own function, on hand-picked channels of ``scale * input``, eps and statistics included.

    But for the running variance, which takes on the scale and not its square.
    """
    each, group = cut(name)
    size = sum(s.size for s in each.layout)
    index = torch.tensor(elements(each.layout, {"g": group}))
    full, reference = tensors(size, affine, tracked), tensors(size, affine, tracked)
    small = [None if t is None else t.detach()[index].clone() for t in reference]
    weights = [t.requires_grad_() for t in small[2:] if t is not None]
    x = (torch.randn(4, len(index), 3).double() * 0.01).requires_grad_()
    found = sliced_batch_norm(x, *full, training, 0.3, 1e-3, cuts=[each], scale=scale)
    expected = F.batch_norm(scale * x, *small, training, 0.3, 1e-3)
    torch.testing.assert_close(found, expected)
    if training and tracked:
        before = reference[1][index] * 0.7
        small[1] = before + (small[1] - before) / scale
    cotangent = torch.randn_like(found)
    mine = torch.autograd.grad(found, [x, *[t for t in full[2:] if t is not None]], cotangent)
    theirs = torch.autograd.grad(expected, [x, *weights], cotangent)
    torch.testing.assert_close(mine[0], theirs[0])
    for a, b in zip(mine[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a[index], b)
        assert int(a.count_nonzero()) <= len(index)
    for now, before, part in zip(full[:2], reference[:2], small[:2], strict=True):
        if now is not None and before is not None and part is not None:
            torch.testing.assert_close(now[index], part)
            rest = torch.ones(size, dtype=torch.bool)
            rest[index] = False
            assert torch.equal(now[rest], before[rest]), "the statistics of channels that were not there stay"


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_statistics_of_one_stretch_are_updated_as_views() -> None:
    each, _ = cut()
    full = tensors(12)
    with Calls() as seen:
        sliced_batch_norm(torch.randn(4, 6, 3).double(), *full, True, 0.1, 1e-5, cuts=[each])
    assert [name for name in seen.names if "batch_norm" in name] == ["native_batch_norm"]
    assert not {"copy_", "cat", "clone", "index_copy_"} & set(seen.names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scale", [1.0, 1.7])
@pytest.mark.parametrize("name", LAYOUTS)
def test_compiled_once_for_all_starts(name: str, scale: float) -> None:
    torch._dynamo.reset()
    each, group = cut(name)
    size = sum(s.size for s in each.layout)
    counter = CompileCounterWithBackend("aot_eager")

    def norm(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return sliced_batch_norm(x, mean, var, weight, bias, True, 0.1, 1e-5, cuts=[each], scale=scale)

    compiled = torch.compile(norm, backend=counter, fullgraph=True)
    mine, theirs = tensors(size), tensors(size)
    kept = sum(s.size // (2 if s.group else 1) for s in each.layout)
    for _ in range(20):
        group.rate.tick()
        x = torch.randn(4, kept, 3).double()
        torch.testing.assert_close(compiled(x, *mine), norm(x, *theirs))
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


def test_a_norm_is_active_for_its_channels_or_for_a_scale() -> None:
    each, group = cut()
    for norm in (
        SlicedNorm("bn", cuts=[each]),
        SlicedNorm("bn", scale_of=group),
        SlicedNorm("bn", cuts=[each], scale_of=group),
    ):
        group.rate.set(0.5)
        assert norm.active
        assert norm.scale() == (1.0 if norm.scale_of is None else 2.0)
        group.rate.set(0.0)
        assert not norm.active
        assert norm.scale() == 1.0
    assert not SlicedNorm("bn").active
    assert repr(norm) == "SlicedNorm('bn')"


def test_only_a_flow_has_one_scale() -> None:
    group = GroupSlice("fc1", 12, 1, SliceRate(0.5, "constant"), normalization="probability")
    with pytest.raises(ValueError, match=r"bn: scale_of='fc1'.*flow"):
        SlicedNorm("bn", scale_of=group)


def test_a_batch_norm_of_another_width_is_named() -> None:
    each, _ = cut()
    bn = nn.BatchNorm1d(10)
    with pytest.raises(ValueError, match=r"a statistic or weight of bn1 has 10 elements, and had 12"):
        sliced_batch_norm(
            torch.randn(4, 6), bn.running_mean, bn.running_var, bn.weight, bn.bias, True, 0.1, 1e-5,
            cuts=[each], name="bn1",
        )  # fmt: skip
