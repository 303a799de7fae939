"""Against indexing with lists of elements, written out unit by unit in conftest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from ecograph.analysis.layout import Layout, Segment
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.take import Cut, full_size, outside, put, rescale, size_now, take

H = Segment(12, "h", 1, 12, 1)
PACKED = Segment(3 * 4 * 2, "heads", 3, 4, 2)
FLAT = Segment(12 * 3, "h", 1, 12, 3)

#: name -> layouts of the dimensions; None where a dimension is not cut
LAYOUTS: dict[str, tuple[Layout | None, ...]] = {
    "bias": ((H,),),
    "rows": ((H,), None),
    "columns": (None, (H,)),
    "rows and columns": ((H,), (FLAT,)),
    "kernel": ((H,), (H,), None, None),
    "packed rows": ((PACKED,), None),
    "packed columns": (None, (PACKED,)),
    "packed rows, columns": ((PACKED,), (H,)),
    "joined": ((Segment(5), H, Segment(2), PACKED), None),
    "joined twice": ((H, Segment(3)), (Segment(4), PACKED, H)),
    "last of three": (None, None, (H,)),
    "one group in two segments": ((H, FLAT), None),
}


def slices_of(drop: float = 0.5, **options: Any) -> dict[str, GroupSlice]:
    rate = SliceRate(drop, "constant")
    settings: dict[str, Any] = {"align": 1, "starts": "any", **options}
    return {"h": GroupSlice("h", 12, 1, rate, **settings), "heads": GroupSlice("heads", 4, 2, rate, **settings)}


def cuts_of(name: str, slices: dict[str, GroupSlice]) -> list[Cut]:
    return [Cut(dim, each, slices) for dim, each in enumerate(LAYOUTS[name]) if each is not None]


def full_tensor(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = [3 if each is None else full_size(each) for each in LAYOUTS[name]]
    tensor = torch.randn(shape, dtype=dtype)
    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def indexed(tensor: Tensor, cuts: list[Cut], elements: Any) -> Tensor:
    for cut in cuts:
        tensor = tensor.index_select(cut.dim, torch.tensor(elements(cut.layout, cut.slices)))
    return tensor


@pytest.mark.parametrize("name", LAYOUTS)
def test_takes_the_elements_and_gives_a_full_gradient(name: str, elements: Any) -> None:
    slices = slices_of()
    cuts = cuts_of(name, slices)
    for _ in range(6):
        slices["h"].rate.tick()
        full = full_tensor(name).requires_grad_()
        found = take(full, cuts)
        twin = full.detach().clone().requires_grad_()
        expected = indexed(twin, cuts, elements)
        assert torch.equal(found, expected)
        cotangent = torch.randn_like(expected)
        found.backward(cotangent)
        expected.backward(cotangent)
        assert torch.equal(full.grad, twin.grad)
        assert full.grad.stride() == full.stride()
        assert [size_now(cut.layout, slices) for cut in cuts] == [found.shape[cut.dim] for cut in cuts]


def test_one_stretch_of_each_dimension_is_a_view() -> None:
    slices = slices_of()
    for name in ("bias", "rows", "columns", "rows and columns", "kernel", "last of three"):
        full = full_tensor(name).requires_grad_()
        found = take(full, cuts_of(name, slices))
        assert found.untyped_storage().data_ptr() == full.untyped_storage().data_ptr()
        with torch.no_grad():
            assert take(full, cuts_of(name, slices))._base is full


def test_where_nothing_is_cut_it_is_the_tensor_itself() -> None:
    slices = slices_of()
    slices["h"].rate.set(0.0)
    full = full_tensor("rows and columns")
    assert take(full, cuts_of("rows and columns", slices)) is full
    assert take(full, []) is full
    assert outside(full, cuts_of("rows and columns", slices)) == []
    assert take(full, [Cut(0, (Segment(12, "unknown", 1, 12, 1),), slices)]) is full


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["kernel", "packed rows"])
def test_the_backward_is_one_fill_and_one_copy(name: str) -> None:
    full = full_tensor(name).requires_grad_()
    found = take(full, cuts_of(name, slices_of()))
    with Calls() as seen:
        found.backward(torch.ones_like(found))
    assert len([each for each in seen.names if each in ("zero_", "new_zeros")]) == 1
    assert seen.names.count("copy_") == 1
    assert not {"clone", "slice_backward", "add", "add_"} & set(seen.names)


@pytest.mark.parametrize("name", LAYOUTS)
def test_put_writes_what_take_takes(name: str, elements: Any) -> None:
    slices = slices_of()
    cuts = cuts_of(name, slices)
    slices["h"].rate.tick()
    full = full_tensor(name)
    value = torch.randn_like(take(full, cuts))
    before = full.clone()
    put(full, cuts, value)
    assert torch.equal(indexed(full, cuts, elements), value)
    mask = torch.ones_like(full)
    put(mask, cuts, torch.zeros_like(value))
    assert torch.equal(full * mask, before * mask)
    views = outside(full, cuts)
    assert sum(view.numel() for view in views) == int(mask.sum())
    for view in views:
        view.fill_(7)
    assert torch.equal(full == 7, mask == 1)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("normalization", ["flow", "probability"])
def test_scale_goes_along_each_cut_dimension(name: str, normalization: str, elements: Any) -> None:
    slices = slices_of(0.25, normalization=normalization, max_scale=3.0)
    cuts = cuts_of(name, slices)
    slices["h"].rate.tick()
    full = full_tensor(name)
    expected = indexed(full, cuts, elements)
    for cut in cuts:
        factors: list[float] = []
        for segment in cut.layout:
            if not segment.group:
                factors += [1.0] * segment.size
                continue
            group = slices[segment.group]
            scale = group.scale()
            units = scale.tolist() if isinstance(scale, Tensor) else [scale] * group.width
            factors += [unit for _ in range(segment.outer) for unit in units for _ in range(segment.inner)]
        shape = [1] * full.ndim
        shape[cut.dim] = -1
        expected = expected * torch.tensor(factors, dtype=torch.float64).view(shape)
    torch.testing.assert_close(take(full, cuts, scale=True), expected)
    torch.testing.assert_close(rescale(take(full, cuts), cuts), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, from within forward differentiation
@pytest.mark.parametrize("name", ["rows and columns", "packed rows, columns", "joined twice"])
def test_derivatives_of_every_kind(name: str) -> None:
    slices = slices_of()
    cuts = cuts_of(name, slices)
    full = full_tensor(name).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: take(t, cuts, scale=True), full)
    assert torch.autograd.gradgradcheck(lambda t: take(t, cuts).pow(3), full)
    assert torch.autograd.gradcheck(lambda t: take(t, cuts), full, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit, from within torch.func.jvp
@pytest.mark.parametrize("name", ["rows and columns", "packed rows"])
def test_torch_func(name: str) -> None:
    slices = slices_of()
    cuts = cuts_of(name, slices)
    batch = torch.stack([full_tensor(name) for _ in range(3)])

    def loss(tensor: Tensor) -> Tensor:
        return take(tensor, cuts).pow(3).sum()

    expected = []
    for each in batch:
        leaf = each.clone().requires_grad_()
        expected.append(torch.autograd.grad(loss(leaf), leaf)[0])
    torch.testing.assert_close(torch.func.grad(loss)(batch[0]), expected[0])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(batch), torch.stack(expected))
    tangent = torch.randn_like(batch[0])
    _, derivative = torch.func.jvp(loss, (batch[0],), (tangent,))
    torch.testing.assert_close(derivative, (expected[0] * tangent).sum())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", LAYOUTS)
def test_compiled_once_for_all_starts(name: str) -> None:
    torch._dynamo.reset()
    slices = slices_of(normalization="probability")
    cuts = cuts_of(name, slices)
    counter = CompileCounterWithBackend("aot_eager")

    def both(tensor: Tensor, buffer: Tensor) -> Tensor:
        put(buffer, cuts, take(buffer, cuts) + 1)
        return take(tensor, cuts, scale=True)

    compiled = torch.compile(both, backend=counter, fullgraph=True)
    starts = set()
    for _ in range(20):
        slices["h"].rate.tick()
        starts.add((slices["h"].start, slices["heads"].start))
        full, buffer = full_tensor(name).requires_grad_(), full_tensor(name)
        twin, twin_buffer = full.detach().clone().requires_grad_(), buffer.clone()
        found, expected = compiled(full, buffer), both(twin, twin_buffer)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # scales by probability are float32
        assert torch.equal(buffer, twin_buffer)
        cotangent = torch.randn_like(expected)
        found.backward(cotangent)
        expected.backward(cotangent)
        torch.testing.assert_close(full.grad, twin.grad, rtol=1e-6, atol=1e-6)
        assert full.grad.stride() == full.stride()
    assert len(starts) > 2
    assert counter.frame_count == 1


def test_a_dimension_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"dimension 0 of the weight of fc has 11 elements, and had 12.*optimize"):
        take(torch.randn(11, 3), cuts_of("rows", slices_of()), name="the weight of fc")


def test_a_torch_function_mode_sees_it() -> None:
    from torch.overrides import TorchFunctionMode

    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    slices = slices_of()
    full = full_tensor("rows")
    with Mode():
        found = take(full, cuts_of("rows", slices), scale=True)
    assert take in seen
    assert torch.equal(found, take(full, cuts_of("rows", slices), scale=True))
