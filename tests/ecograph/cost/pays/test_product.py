"""Products as they are found in models, against the layers themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ecograph.analysis.sites import find_sites
from ecograph.capture import capture
from ecograph.cost.pays import PlainProduct, ProductCall, Spec, product_call

LAYERS: dict[str, tuple[nn.Module, Tensor]] = {
    "linear": (nn.Linear(6, 10), torch.randn(3, 5, 6)),
    "conv1d": (nn.Conv1d(4, 8, 3, padding="same", bias=False), torch.randn(2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), groups=2), torch.randn(2, 4, 9, 9)),
    "depthwise": (nn.Conv2d(8, 8, 3, dilation=2, groups=8), torch.randn(2, 8, 9, 9)),
    "conv3d": (nn.Conv3d(2, 4, 3), torch.randn(2, 2, 5, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=1, groups=2), torch.randn(2, 4, 5, 5)),
    "channels_last": (nn.Conv2d(4, 8, 3), torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)),
    "double": (nn.Linear(6, 10).double(), torch.randn(3, 6).double()),
}


def find(layer: nn.Module, x: Tensor) -> ProductCall:
    model = nn.Sequential(layer)
    (site,) = find_sites(capture(model, x), model)
    call = product_call(site, model)
    assert call is not None
    return call


def make(spec: Spec | None) -> Any:
    return None if spec is None else torch.randn(spec.shape, dtype=spec.dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_found_again(name: str) -> None:
    layer, x = LAYERS[name]
    call = find(layer, x)
    assert call.input.shape == x.shape and call.input.dtype == x.dtype
    assert call.input.channels_last is (name == "channels_last")
    torch.testing.assert_close(call.product(x, layer.weight, layer.bias), layer(x))
    assert (call.bias is None) is (layer.bias is None)
    flops = {op.grad: op.flops for op in call.record() if op.flops}
    assert flops[""] > 0 and flops["grad_weight"] == flops[""]


def _area(layer: nn.Module) -> int:
    return int(layer.weight.shape[0] * layer.weight.shape[1])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("inp", "out"), [(1.0, 0.5), (0.5, 1.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_slice_is_a_layer_that_runs(name: str, inp: float, out: float) -> None:
    layer, x = LAYERS[name]
    whole = find(layer, x)
    small = whole.sliced(inp, out)
    output = small.product(make(small.input), make(small.weight), make(small.bias))
    channel = 1 if whole.product.dims else -1
    full = layer(x)
    assert output.shape[channel] == full.shape[channel] * out
    assert output.dim() == full.dim()
    if whole.product.groups == 1:
        assert small.input.shape[channel] == x.shape[channel] * inp
        assert small.weight.shape[0] * small.weight.shape[1] == _area(layer) * inp * out


def test_without_shapes_there_is_no_call() -> None:
    model = nn.Sequential(nn.Linear(6, 10))
    (site,) = find_sites(capture(model, None), model)
    assert product_call(site, model) is None


def test_equal_calls_are_recorded_once() -> None:
    layer, x = LAYERS["linear"]
    assert find(layer, x).record() is find(nn.Linear(6, 10), torch.zeros_like(x)).record()
    assert PlainProduct.conv(2, 1, 1) == PlainProduct.conv(2, (1, 1), [1, 1])
