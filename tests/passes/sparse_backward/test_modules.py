"""Every replaced layer against the layer it was, over its own options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ecograph.passes.sparse_backward.modules import REPLACEMENTS
from ecograph.schedule import Rate

# torch says once per process that it pads such inputs itself.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

Case = tuple[Callable[[], nn.Module], tuple[int, ...]]

LAYERS: dict[str, Case] = {
    "Linear": (lambda: nn.Linear(6, 8), (4, 6)),
    "Linear, 1-D input": (lambda: nn.Linear(6, 8), (6,)),
    "Linear, 4-D input": (lambda: nn.Linear(6, 8, bias=False), (2, 3, 2, 6)),
    "Conv1d": (lambda: nn.Conv1d(4, 8, 3), (2, 4, 9)),
    "Conv1d, unbatched": (lambda: nn.Conv1d(4, 8, 3, padding="same"), (4, 9)),
    "Conv1d, circular": (lambda: nn.Conv1d(4, 8, 3, padding=2, padding_mode="circular"), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 8, 3, padding=1), (2, 4, 6, 5)),
    "Conv2d, no bias": (lambda: nn.Conv2d(4, 8, 3, bias=False), (2, 4, 6, 5)),
    "Conv2d, unbatched": (lambda: nn.Conv2d(4, 8, 3), (4, 6, 5)),
    "Conv2d, tuples": (
        lambda: nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)),
        (2, 4, 7, 6),
    ),
    "Conv2d, same": (lambda: nn.Conv2d(4, 8, 3, padding="same", dilation=2), (2, 4, 6, 5)),
    "Conv2d, same, even kernel": (lambda: nn.Conv2d(4, 8, (2, 4), padding="same"), (2, 4, 6, 5)),
    "Conv2d, same, even and dilated": (
        lambda: nn.Conv2d(4, 8, (4, 2), padding="same", dilation=(1, 3), groups=2),
        (2, 4, 6, 7),
    ),
    "Conv2d, valid": (lambda: nn.Conv2d(4, 8, 3, padding="valid"), (2, 4, 6, 5)),
    "Conv2d, reflect": (lambda: nn.Conv2d(4, 8, 3, padding=(1, 2), padding_mode="reflect"), (2, 4, 6, 5)),
    "Conv2d, replicate": (lambda: nn.Conv2d(4, 8, 3, padding=1, padding_mode="replicate"), (2, 4, 6, 5)),
    "Conv2d, circular": (lambda: nn.Conv2d(4, 8, 3, padding=(2, 1), padding_mode="circular"), (2, 4, 6, 5)),
    "Conv2d, reflect, same, even": (
        lambda: nn.Conv2d(4, 8, 2, padding="same", padding_mode="reflect"),
        (2, 4, 6, 5),
    ),
    "Conv2d, grouped": (lambda: nn.Conv2d(6, 12, 3, groups=3), (2, 6, 5, 5)),
    "Conv2d, multiplier": (lambda: nn.Conv2d(4, 16, 3, groups=4), (2, 4, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(2, 8, 2, padding=(0, 1, 0)), (2, 2, 3, 4, 3)),
    "Conv3d, replicate": (lambda: nn.Conv3d(2, 8, 3, padding=1, padding_mode="replicate"), (1, 2, 3, 4, 3)),
    "Conv3d, same, even kernel": (lambda: nn.Conv3d(2, 8, (2, 3, 4), padding="same"), (1, 2, 3, 4, 4)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 8, 3, stride=2, output_padding=1), (2, 4, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 8, 3, stride=(2, 1), padding=1), (2, 4, 4, 5)),
    "ConvTranspose2d, unbatched": (lambda: nn.ConvTranspose2d(4, 8, 3, stride=2), (4, 4, 5)),
    "ConvTranspose2d, grouped": (
        lambda: nn.ConvTranspose2d(4, 8, 3, stride=2, output_padding=(1, 0), groups=2, bias=False),
        (2, 4, 4, 5),
    ),
    "ConvTranspose3d": (
        lambda: nn.ConvTranspose3d(2, 8, 2, stride=(1, 2, 1), dilation=(2, 1, 1)),
        (1, 2, 3, 2, 3),
    ),
}
SHORT = ["Linear", "Conv1d", "Conv2d", "Conv2d, grouped", "Conv3d"]
SHORT += ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


def step(
    layer: nn.Module, input: Tensor, cotangent: Tensor | None = None, **kwargs: Any
) -> tuple[Tensor, ...]:
    """Output and the gradients of input and parameters."""
    input = input.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output = layer(input, **kwargs)
    wanted = [input, *(p for p in layer.parameters() if p.requires_grad)]
    return output, *torch.autograd.grad(
        output, wanted, torch.ones_like(output) if cotangent is None else cotangent
    )


def groups_of(layer: nn.Module) -> tuple[int, int]:
    groups = getattr(layer, "groups", 1)
    return groups, getattr(layer, "out_channels", None) or layer.out_features


def channel_dim(layer: nn.Module, output: Tensor) -> int:
    return output.ndim - 1 if isinstance(layer, nn.Linear) else output.ndim - 1 - len(layer.kernel_size)


@pytest.mark.parametrize("drop", [0.3, 0.75])
@pytest.mark.parametrize("name", LAYERS)
def test_the_sparse_step_is_the_masked_dense_step(
    name: str, drop: float, make_sparse: Any, mask: Any
) -> None:
    build, shape = LAYERS[name]
    plain = build().double()
    layer = make_sparse(copy.deepcopy(plain), drop)
    input = torch.randn(shape, dtype=torch.float64)
    output = plain(input)
    cotangent = torch.randn_like(output)
    groups, channels = groups_of(plain)
    keep = max(int((1 - drop) * channels / groups), 1)
    masked = cotangent * mask(cotangent, keep, groups, channel_dim(plain, output))
    expected = step(plain, input, masked)
    found = step(layer, input, cotangent)
    assert (
        "Sparse" in repr(layer(input.requires_grad_()).grad_fn)
        or "squeeze" in repr(layer(input).grad_fn).lower()
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.shape == theirs.shape


def bitwise(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["drop is 0", "eval", "keeps all"])
@pytest.mark.parametrize("name", LAYERS)
def test_dense_ways_are_bit_for_bit_the_plain_layer(
    name: str, mode: str, dtype: torch.dtype, make_sparse: Any
) -> None:
    build, shape = LAYERS[name]
    plain = build().to(dtype)
    drop, options = {"drop is 0": (0.0, {}), "eval": (0.75, {}), "keeps all": (0.75, {"align": 1000})}[mode]
    layer = make_sparse(copy.deepcopy(plain), drop, **options)
    input = torch.randn(shape).to(dtype)
    formats = [torch.contiguous_format]
    if input.ndim == 4:
        formats.append(torch.channels_last)
    for memory_format in formats:
        laid_out = input.to(memory_format=memory_format)
        for module in (plain, layer):
            module.train(mode != "eval").to(
                memory_format=memory_format if input.ndim == 4 else torch.preserve_format
            )
        cotangent = torch.randn_like(plain(laid_out))
        bitwise(step(layer, laid_out, cotangent), step(plain, laid_out, cotangent))


@pytest.mark.parametrize("name", SHORT)
def test_without_gradients_it_is_the_plain_layer(name: str, make_sparse: Any) -> None:
    build, shape = LAYERS[name]
    plain = build()
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    input = torch.randn(shape)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            bitwise((layer(input),), (plain(input),))


@pytest.mark.parametrize("size", [(9, 10), (10, 9), [10, 10]])
def test_output_size(size: Any, make_sparse: Any, mask: Any) -> None:
    plain = nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1).double()
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    input = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    cotangent = torch.randn_like(plain(input, output_size=size))
    assert cotangent.shape[2:] == torch.Size(size)
    expected = step(plain, input, cotangent * mask(cotangent, 2), output_size=size)
    for ours, theirs in zip(step(layer, input, cotangent, output_size=size), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="output size"):
        layer(input, output_size=(3, 3))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "name", ["Conv2d", "Conv2d, grouped", "ConvTranspose2d", "Conv2d, same, even kernel"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_formats_go_through(
    name: str, memory_format: torch.memory_format, dtype: torch.dtype, make_sparse: Any
) -> None:
    build, shape = LAYERS[name]
    plain = build().to(dtype).to(memory_format=memory_format)
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    input = torch.randn(shape).to(dtype).to(memory_format=memory_format)
    cotangent = torch.randn_like(plain(input))
    for ours, theirs in zip(step(layer, input, cotangent), step(plain, input, cotangent), strict=True):
        assert ours.stride() == theirs.stride()
    layer(input).backward(cotangent)
    for parameter in layer.parameters():
        assert parameter.grad.stride() == parameter.stride()
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.dtype == parameter.dtype


@pytest.mark.parametrize("name", SHORT)
def test_gradients_are_full_with_zeros_where_dropped(name: str, make_sparse: Any) -> None:
    build, shape = LAYERS[name]
    layer = make_sparse(build(), 0.75)
    groups, channels = groups_of(layer)
    output = layer(torch.randn(shape))
    output.backward(torch.randn_like(output))
    kept = max(channels // groups // 4, 1) * groups
    assert layer.bias.grad.count_nonzero() == kept
    weight = layer.weight.grad
    if "Transpose" in name:
        weight = weight.transpose(0, 1)
    assert weight.flatten(1).abs().sum(1).count_nonzero() == kept
    assert {p.grad.shape == p.shape for p in layer.parameters()} == {True}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SHORT)
def test_autocast_gives_the_plain_layers_dtypes(
    name: str, dtype: torch.dtype, make_sparse: Any, mask: Any
) -> None:
    build, shape = LAYERS[name]
    plain = build()
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    input = torch.randn(shape)
    groups, channels = groups_of(plain)
    with torch.autocast("cpu", dtype):
        expected_output = plain(input)
    cotangent = torch.randn_like(expected_output)
    masked = cotangent * mask(
        cotangent, max(channels // groups // 4, 1), groups, channel_dim(plain, cotangent)
    )
    with torch.autocast("cpu", dtype):
        found, expected = step(layer, input, cotangent), step(plain, input, masked)
    assert torch.equal(found[0], expected[0])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        eps = 20 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, theirs, rtol=eps, atol=eps * theirs.abs().max().item())


def test_autocast_leaves_float64_alone(make_sparse: Any) -> None:
    plain = nn.Conv2d(4, 8, 3).double()
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    input = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(input).dtype == plain(input).dtype == torch.float64


@pytest.mark.parametrize("name", ["Linear", "Conv2d"])
def test_a_scaled_loss_that_overflows_is_found_and_skipped(name: str, make_sparse: Any) -> None:
    build, shape = LAYERS[name]
    layer = make_sparse(build(), 0.75)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
    before = copy.deepcopy(layer.state_dict())
    for factor, updates in ((1e4, False), (1e-3, True)):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = (layer(torch.randn(shape)) * factor).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        changed = not all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
        assert changed is updates
        assert all(p.isfinite().all() for p in layer.parameters())
    assert scaler.get_scale() == 2.0**14


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in SHORT if "Linear" not in name])
def test_one_fused_backward_per_layer(name: str, make_sparse: Any) -> None:
    build, shape = LAYERS[name]
    layer = make_sparse(build(), 0.75)
    output = layer(torch.randn(shape, requires_grad=True))
    with Counter() as seen:
        output.sum().backward()
    assert seen.names.count("convolution_backward") == 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Linear", (0, 6)),
        ("Linear", (2, 0, 6)),
        ("Conv1d", (0, 4, 9)),
        ("Conv2d", (0, 4, 6, 5)),
        ("ConvTranspose2d", (0, 4, 4, 5)),
    ],
)
def test_an_empty_batch_is_as_in_torch(name: str, shape: tuple[int, ...], make_sparse: Any) -> None:
    plain = LAYERS[name][0]()
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    input = torch.randn(shape)
    bitwise(step(layer, input), step(plain, input))


@pytest.mark.parametrize(
    "shape", [(2, 4, 0, 5), (2, 4, 1, 5)], ids=["no positions", "smaller than the kernel"]
)
def test_inputs_that_torch_refuses_are_refused_alike(shape: tuple[int, ...], make_sparse: Any) -> None:
    plain = nn.Conv2d(4, 8, 3)
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    messages = []
    for module in (plain, layer):
        with pytest.raises(RuntimeError) as caught:
            module(torch.randn(shape))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("name", "shape"), [("Linear", (4, 5)), ("Conv2d", (2, 3, 6, 5)), ("Conv2d", (2, 4, 6))]
)
def test_a_wrong_shape_fails_as_in_torch(name: str, shape: tuple[int, ...], make_sparse: Any) -> None:
    plain = LAYERS[name][0]()
    layer = make_sparse(copy.deepcopy(plain), 0.75)
    for module in (plain, layer):
        with pytest.raises(RuntimeError, match="size|shape|Expected|channels"):
            module(torch.randn(shape))


# Tracing and compiling, torch calls what it has deprecated itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["Linear, 4-D input", "Conv2d, same, even kernel", "Conv2d, circular", "ConvTranspose2d"]
)
def test_compiles_whole(name: str, make_sparse: Any) -> None:
    build, shape = LAYERS[name]
    layer = make_sparse(build(), 0.75)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    input = torch.randn(shape)
    cotangent = torch.randn_like(layer(input))
    for ours, theirs in zip(step(compiled, input, cotangent), step(layer, input, cotangent), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_replacement_is_the_layer_it_replaces() -> None:
    for original, replacement in REPLACEMENTS.items():
        assert issubclass(replacement, original)
        assert replacement.__init__ is original.__init__
        assert replacement.__module__.startswith("ecograph.")


def test_the_rate_is_read_at_every_forward(make_sparse: Any) -> None:
    rate = Rate(0.75, "constant")
    layer = make_sparse(nn.Linear(6, 8), 0.75, rate=rate)
    kept = []
    for value in (0.75, 0.0, 0.5, 0.75):
        rate.set(value)
        layer.zero_grad()
        layer(torch.randn(4, 6)).square().sum().backward()
        kept.append(int(layer.bias.grad.count_nonzero()))
    assert kept == [2, 8, 4, 2]
