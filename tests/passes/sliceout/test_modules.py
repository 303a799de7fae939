"""Every replaced layer against a small torch layer made from the slice of its parameters."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from ecograph.analysis.layout import Segment
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.modules import REPLACEMENTS
from ecograph.passes.sliceout.norm import SlicedNorm
from ecograph.passes.sliceout.take import Cut

# torch says once per process that it pads such inputs itself.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

#: name -> (layer of i input and o output channels, input shape for i channels)
PRODUCTS: dict[str, tuple[Callable[[int, int], nn.Module], Callable[[int], tuple[int, ...]]]] = {
    "Linear": (lambda i, o: nn.Linear(i, o), lambda i: (3, i)),
    "Linear, 1-D input, no bias": (lambda i, o: nn.Linear(i, o, bias=False), lambda i: (i,)),
    "Linear, 4-D input": (lambda i, o: nn.Linear(i, o), lambda i: (2, 2, 3, i)),
    "Conv1d": (lambda i, o: nn.Conv1d(i, o, 3, padding=1), lambda i: (2, i, 7)),
    "Conv1d, circular": (
        lambda i, o: nn.Conv1d(i, o, 3, padding=2, padding_mode="circular"),
        lambda i: (2, i, 7),
    ),
    "Conv2d": (lambda i, o: nn.Conv2d(i, o, 3, stride=2, dilation=2), lambda i: (2, i, 8, 7)),
    "Conv2d, no bias, unbatched": (lambda i, o: nn.Conv2d(i, o, 3, bias=False), lambda i: (i, 6, 5)),
    "Conv2d, same, even kernel": (lambda i, o: nn.Conv2d(i, o, (2, 4), padding="same"), lambda i: (2, i, 6, 5)),
    "Conv2d, valid": (lambda i, o: nn.Conv2d(i, o, 3, padding="valid"), lambda i: (2, i, 6, 5)),
    "Conv2d, reflect": (
        lambda i, o: nn.Conv2d(i, o, 3, padding=(1, 2), padding_mode="reflect"),
        lambda i: (2, i, 6, 5),
    ),
    "Conv2d, replicate": (
        lambda i, o: nn.Conv2d(i, o, 3, padding=1, padding_mode="replicate"),
        lambda i: (2, i, 6, 5),
    ),
    "Conv3d": (lambda i, o: nn.Conv3d(i, o, 2), lambda i: (2, i, 3, 4, 3)),
    "ConvTranspose1d": (lambda i, o: nn.ConvTranspose1d(i, o, 3, stride=2, output_padding=1), lambda i: (2, i, 5)),
    "ConvTranspose2d": (lambda i, o: nn.ConvTranspose2d(i, o, 3, stride=(2, 1), padding=1), lambda i: (2, i, 4, 5)),
    "ConvTranspose3d": (lambda i, o: nn.ConvTranspose3d(i, o, 2, dilation=2), lambda i: (1, i, 3, 2, 3)),
}
NORMS: dict[str, tuple[Callable[[int], nn.Module], Callable[[int], tuple[int, ...]]]] = {
    "BatchNorm1d": (lambda c: nn.BatchNorm1d(c), lambda c: (5, c)),
    "BatchNorm1d, positions": (lambda c: nn.BatchNorm1d(c), lambda c: (5, c, 4)),
    "BatchNorm2d": (lambda c: nn.BatchNorm2d(c, eps=1e-3, momentum=0.3), lambda c: (3, c, 4, 4)),
    "BatchNorm2d, cumulative": (lambda c: nn.BatchNorm2d(c, momentum=None), lambda c: (3, c, 4, 4)),
    "BatchNorm2d, not tracked": (
        lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        lambda c: (3, c, 4, 4),
    ),
    "BatchNorm2d, not affine": (lambda c: nn.BatchNorm2d(c, affine=False), lambda c: (3, c, 4, 4)),
    "BatchNorm3d": (lambda c: nn.BatchNorm3d(c), lambda c: (3, c, 2, 2, 3)),
}
INPUTS, OUTPUTS = 8, 12


def new_slices(anchor: nn.Module | None = None) -> dict[str, GroupSlice]:
    rate = SliceRate(0.5, "constant")
    options: dict[str, Any] = {"align": 1, "starts": "any", "anchor": anchor}
    return {
        "o": GroupSlice("o", OUTPUTS, 1, rate, **options),
        "i": GroupSlice("i", INPUTS, 1, rate, **options),
    }


def sliced(layer: nn.Module) -> tuple[nn.Module, dict[str, GroupSlice]]:
    """The layer with input and output channels sliced; the slices follow its own training mode."""
    slices = new_slices(layer)
    out, inp = (Segment(OUTPUTS, "o", 1, OUTPUTS, 1),), (Segment(INPUTS, "i", 1, INPUTS, 1),)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.sliced = SlicedNorm("bn", cuts=[Cut(0, out, slices)])
    else:
        layer.sliced = SlicedLayer("layer", rate=slices["o"].rate, out=out, inp=inp, slices=slices)
    layer.__class__ = REPLACEMENTS[type(layer)]
    slices["o"].rate.tick()
    return layer, slices


def copy_slice(small: nn.Module, full: nn.Module, slices: dict[str, GroupSlice]) -> nn.Module:
    """Fills a small layer with the slice of the full one's parameters and buffers."""
    with torch.no_grad():
        for name, tensor in (*small.named_parameters(), *small.named_buffers()):
            source = getattr(full, name).detach()
            for dim in range(min(tensor.ndim, 2)):
                for group in slices.values():
                    if source.shape[dim] == group.units:
                        source = source.narrow(dim, group.start, group.width)
            tensor.copy_(source)
    return small.train(full.training)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_sliced_layer_is_a_small_layer(name: str, dtype: torch.dtype) -> None:
    build, shape = PRODUCTS[name]
    layer, slices = sliced(build(INPUTS, OUTPUTS).to(dtype))
    for _ in range(3):
        slices["o"].rate.tick()
        small = copy_slice(build(INPUTS // 2, OUTPUTS // 2).to(dtype), layer, slices)
        input = torch.randn(shape(INPUTS // 2), dtype=dtype, requires_grad=True)
        twin = input.detach().clone().requires_grad_()
        found, expected = layer(input), small(twin)
        torch.testing.assert_close(found, expected)
        assert found.dtype == expected.dtype
        layer.zero_grad()
        cotangent = torch.randn_like(expected)
        found.backward(cotangent)
        expected.backward(cotangent)
        torch.testing.assert_close(input.grad, twin.grad)
        for key, parameter in layer.named_parameters():
            full = torch.zeros_like(parameter)
            part = full
            for dim in range(min(full.ndim, 2)):
                for group in slices.values():
                    if part.shape[dim] == group.units:
                        part = part.narrow(dim, group.start, group.width)
            part.copy_(dict(small.named_parameters())[key].grad)
            torch.testing.assert_close(parameter.grad, full)
            assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("name", NORMS)
def test_a_sliced_norm_is_a_small_norm(name: str) -> None:
    build, shape = NORMS[name]
    layer, slices = sliced(build(OUTPUTS).double())
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    for step in range(1, 5):
        slices["o"].rate.tick()
        small = copy_slice(build(OUTPUTS // 2).double(), layer, slices)
        before = {key: value.clone() for key, value in layer.named_buffers()}
        input = torch.randn(shape(OUTPUTS // 2), dtype=torch.float64)
        torch.testing.assert_close(layer(input), small(input))
        if layer.track_running_stats:
            assert int(layer.num_batches_tracked) == step
        group = slices["o"]
        for key, value in layer.named_buffers():
            if value.ndim:
                expected = before[key]
                expected[group.start : group.start + group.width] = dict(small.named_buffers())[key]
                torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("mode", ["eval", "rate is 0"])
@pytest.mark.parametrize("name", [*PRODUCTS, *NORMS])
def test_eval_and_rate_zero_are_the_plain_layer_bit_for_bit(name: str, mode: str) -> None:
    if name in PRODUCTS:
        plain, shape = PRODUCTS[name][0](INPUTS, OUTPUTS), PRODUCTS[name][1](INPUTS)
    else:
        plain, shape = NORMS[name][0](OUTPUTS), NORMS[name][1](OUTPUTS)
    layer, slices = sliced(copy.deepcopy(plain))
    if mode == "eval":
        layer.eval()
        plain.eval()
    else:
        slices["o"].rate.set(0.0)
    for _ in range(2):
        input = torch.randn(shape, requires_grad=True)
        twin = input.detach().clone().requires_grad_()
        found, expected = layer(input), plain(twin)
        assert torch.equal(found, expected)
        cotangent = torch.randn_like(expected)
        found.backward(cotangent)
        expected.backward(cotangent)
        assert torch.equal(input.grad, twin.grad)
    for (key, mine), (other, theirs) in zip(layer.state_dict().items(), plain.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(layer.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize("size", [(9, 10), [10, 10]])
def test_output_size(size: Any) -> None:
    layer, slices = sliced(nn.ConvTranspose2d(INPUTS, OUTPUTS, 3, stride=2, padding=1))
    small = copy_slice(nn.ConvTranspose2d(INPUTS // 2, OUTPUTS // 2, 3, stride=2, padding=1), layer, slices)
    input = torch.randn(2, INPUTS // 2, 5, 5)
    torch.testing.assert_close(layer(input, output_size=size), small(input, output_size=size))
    with pytest.raises(ValueError, match="output size"):
        layer(input, output_size=(3, 3))


def test_a_layer_in_eval_mode_in_a_sliced_model_is_sliced_all_the_same() -> None:
    """A frozen batch norm, say: what reaches it is small because its group's anchor is in training."""
    for plain, shape in ((nn.BatchNorm1d(OUTPUTS), (5, OUTPUTS // 2)), (nn.Linear(INPUTS, OUTPUTS), (5, INPUTS // 2))):
        layer, slices = sliced(plain)
        for group in slices.values():
            group.anchor = None
        layer.eval()
        assert layer(torch.randn(shape)).shape == (5, OUTPUTS // 2)
    bn, slices = sliced(nn.BatchNorm1d(OUTPUTS))
    slices["o"].anchor = None
    bn(torch.randn(5, OUTPUTS // 2))
    before = copy.deepcopy(bn.state_dict())
    small = copy_slice(nn.BatchNorm1d(OUTPUTS // 2), bn.eval(), slices)
    input = torch.randn(5, OUTPUTS // 2)
    torch.testing.assert_close(bn(input), small(input))
    for key, value in bn.state_dict().items():
        assert torch.equal(value, before[key])


def test_wrong_inputs_fail_as_in_torch() -> None:
    layer, _ = sliced(nn.BatchNorm2d(OUTPUTS))
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        layer(torch.randn(2, 6, 4))
    layer, _ = sliced(nn.Linear(INPUTS, OUTPUTS))
    with pytest.raises(RuntimeError, match="shape"):
        layer(torch.randn(2, INPUTS))


def test_memory_formats_go_through() -> None:
    plain = nn.Sequential(nn.Conv2d(INPUTS, OUTPUTS, 3), nn.BatchNorm2d(OUTPUTS)).to(memory_format=torch.channels_last)
    conv, slices = sliced(plain[0])
    input = torch.randn(2, INPUTS // 2, 6, 6).to(memory_format=torch.channels_last)
    output = conv(input)
    assert output.is_contiguous(memory_format=torch.channels_last)
    output.sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()
    bn, _ = sliced(plain[1])
    assert bn(output).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["Linear", "Conv2d", "ConvTranspose2d"])
def test_autocast_gives_the_small_layers_dtypes(name: str, dtype: torch.dtype) -> None:
    build, shape = PRODUCTS[name]
    layer, slices = sliced(build(INPUTS, OUTPUTS))
    small = copy_slice(build(INPUTS // 2, OUTPUTS // 2), layer, slices)
    input = torch.randn(shape(INPUTS // 2))
    with torch.autocast("cpu", dtype):
        found, expected = layer(input), small(input)
    assert found.dtype == expected.dtype == dtype
    torch.testing.assert_close(found, expected)
    found.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


def test_traced_it_is_one_call() -> None:
    model = nn.Sequential(sliced(nn.Conv2d(INPUTS, OUTPUTS, 3))[0], sliced(nn.BatchNorm2d(OUTPUTS))[0])
    model.append(sliced(nn.ConvTranspose2d(OUTPUTS, INPUTS, 3))[0]).append(sliced(nn.Linear(INPUTS, OUTPUTS))[0])

    class Inside(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            return False

    calls = [node.target for node in Inside().trace(model).nodes if node.op == "call_module"]
    assert calls == ["0", "1", "2", "3"]


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["Linear", "BatchNorm2d"])
def test_copies(name: str, how: str) -> None:
    build, shape = PRODUCTS.get(name) or (lambda i, o: nn.BatchNorm2d(o), NORMS[name][1])
    layer, _ = sliced(build(INPUTS, OUTPUTS))
    input = torch.randn(shape(6 if "Norm" in name else 4))
    twin = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert torch.equal(twin(input), layer(input))
    twin.eval()
    assert layer(input).shape[1] == 6, "the copy's slices are its own"
    assert twin.sliced is not layer.sliced


def test_every_replacement_is_the_layer_it_replaces() -> None:
    for original, replacement in REPLACEMENTS.items():
        assert issubclass(replacement, original)
        assert replacement.__init__ is original.__init__
        assert replacement.__module__.startswith("ecograph.")
        assert replacement.__doc__


def test_state_dicts_load_both_ways() -> None:
    plain = nn.Linear(INPUTS, OUTPUTS)
    layer, _ = sliced(copy.deepcopy(plain))
    assert list(layer.state_dict()) == list(plain.state_dict())
    layer.load_state_dict(plain.state_dict())
    plain.load_state_dict(layer.state_dict())
