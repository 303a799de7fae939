"""FLOPs of products agree with torch's own counter, and where they do not, the counter is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from zoo.checks import check, total_flops
from zoo.counting import CORRECTED, Reference, reference

from ecograph.capture import capture
from ecograph.cost import Flops
from ecograph.cost.flops import conv_flops, linear_flops

aten = torch.ops.aten
FUSED = aten._scaled_dot_product_flash_attention_for_cpu
FUSED_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward

quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_hand(function: Any, *tensors: torch.Tensor) -> tuple[int, int]:
    """Returns forward and backward FLOPs of a call, from plain FlopCounterMode on real tensors."""
    with FlopCounterMode(display=False) as forward:
        output = function(*tensors)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


# -- the formulas ------------------------------------------------------------------------------------------------------


@quick
@given(st.data())
def test_convolutions_of_any_shape(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3), label="dims")
    transposed = data.draw(st.booleans(), label="transposed")
    small = st.integers(1, 3)
    groups, batch = data.draw(small, label="groups"), data.draw(st.integers(0, 3), label="batch")
    inputs, outputs = groups * data.draw(small, label="in"), groups * data.draw(small, label="out")
    kernel = data.draw(st.lists(small, min_size=dims, max_size=dims), label="kernel")
    stride, dilation = data.draw(small, label="stride"), data.draw(st.integers(1, 2), label="dilation")
    padding = data.draw(st.integers(0, min(kernel) // 2), label="padding")
    size = data.draw(st.lists(st.integers(5, 8), min_size=dims, max_size=dims), label="size")

    kinds = (
        [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
        if transposed
        else [nn.Conv1d, nn.Conv2d, nn.Conv3d]
    )
    layer = kinds[dims - 1](inputs, outputs, tuple(kernel), stride, padding, groups=groups, dilation=dilation)
    x = torch.zeros(batch, inputs, *size, requires_grad=True)
    output = layer(x)
    forward = conv_flops(tuple(x.shape), tuple(layer.weight.shape), tuple(output.shape), transposed=transposed)

    counted, backward = by_hand(layer, x) if batch else (0, 0)
    assert forward == counted
    if groups == 1:
        assert 2 * forward == backward, "grad_input and grad_weight cost the forward each"
    if not transposed:
        assert forward == 2 * output.numel() * layer.weight[0].numel(), "a multiply and an add"


@quick
@given(leading=st.lists(st.integers(0, 4), min_size=1, max_size=3), inputs=st.integers(1, 9), outputs=st.integers(1, 9))
def test_linear_of_any_shape(leading: list[int], inputs: int, outputs: int) -> None:
    x = torch.zeros(*leading, inputs, requires_grad=True)
    layer = nn.Linear(inputs, outputs)
    forward = linear_flops((*leading, outputs), inputs)
    assert forward == 2 * x.numel() * outputs
    if x.numel():
        assert (forward, 2 * forward) == by_hand(layer, x)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_captured_chains_of_any_shape(data: st.DataObject) -> None:
    """The whole way: capture a small random network and compare the step."""
    layers: list[nn.Module] = []
    channels = data.draw(st.integers(1, 4), label="channels")
    shape = (2, channels, 9, 9)
    for _ in range(data.draw(st.integers(1, 3), label="depth")):
        groups = data.draw(st.sampled_from([g for g in (1, 2, channels) if channels % g == 0]), label="groups")
        width = groups * data.draw(st.integers(1, 3), label="width")
        kernel = data.draw(st.integers(1, 3), label="kernel")
        kind = data.draw(st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]), label="kind")
        layers += [kind(channels, width, kernel, groups=groups, bias=data.draw(st.booleans())), nn.ReLU()]
        channels = width
    layers += [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, data.draw(st.integers(1, 5), label="classes")),
    ]
    for layer in layers:
        if data.draw(st.booleans(), label="frozen"):
            layer.requires_grad_(False)
    model = nn.Sequential(*layers)
    assume(any(p.requires_grad for p in model.parameters()))
    checked = check(model, ((torch.zeros(shape),), {}))
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward


def test_flops_add_up_field_by_field() -> None:
    total = Flops(1, 2, 3, 4) + Flops(10, 20, 30, 40)
    assert total == Flops(11, 22, 33, 44)
    assert total.backward == 99
    assert total.total == 110


# -- whole calls -------------------------------------------------------------------------------------------------------


class Calling(nn.Module):
    """A function of the input and of one parameter, as a model."""

    def __init__(self, body: Any, *weight: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(*weight)) if weight else None
        self.fc = nn.Linear(4, 4)
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(self.fc(x), self.w)


CALLS = {
    "linear": ((4, 4), lambda x, w: F.linear(x, w)),
    "linear of a vector": ((4, 4), lambda x, w: F.linear(x[0, 0], w)),
    "matmul": ((4, 5), lambda x, w: x @ w),
    "matmul, folded": ((4, 5), lambda x, w: torch.matmul(x.unsqueeze(1), w)),
    "matmul, batched weight": ((2, 4, 5), lambda x, w: x @ w),
    "matmul, broadcast input": ((2, 4, 5), lambda x, w: x[:1] @ w),
    "matmul, broadcast weight": ((1, 4, 5), lambda x, w: x @ w),
    "matmul from the left": ((5, 3), lambda x, w: w @ x),
    "matrix times vector": ((4,), lambda x, w: x @ w),
    "mm": ((4, 5), lambda x, w: x[0].mm(w)),
    "addmm": ((4, 4), lambda x, w: torch.addmm(w[0], x[0], w)),
    "bmm with itself": ((), lambda x, w: torch.bmm(x[:, :, :3], x[:, :, :3])),
    "bmm": ((2, 4, 5), lambda x, w: torch.bmm(x, w)),
    "baddbmm": ((2, 4, 3), lambda x, w: torch.baddbmm(x[:, :, :3], x, w)),
    "activations": ((), lambda x, w: x @ x.transpose(1, 2)),
    "einsum": ((4, 5), lambda x, w: torch.einsum("bti,io->bto", x, w)),
    "einsum of activations": ((), lambda x, w: torch.einsum("bti,bsi->bts", x, x)),
    "einsum, a list of operands": ((4, 5), lambda x, w: torch.einsum("bti, io -> bto", [x, w])),
    "conv1d": ((5, 3, 2), lambda x, w: F.conv1d(x, w)),
    "conv1d, groups": ((6, 1, 2), lambda x, w: F.conv1d(x, w, groups=3)),
    "conv1d, unbatched": ((5, 3, 2), lambda x, w: F.conv1d(x[0], w)),
    "conv_transpose1d": ((3, 5, 2), lambda x, w: F.conv_transpose1d(x, w, stride=2)),
    "attention": ((), lambda x, w: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])),
    "attention without heads": ((), lambda x, w: F.scaled_dot_product_attention(x, x, x)),
    "attention, causal": ((), lambda x, w: F.scaled_dot_product_attention(x[None], x[None], x[None], is_causal=True)),
    "attention with dropout": (
        (),
        lambda x, w: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
    ),
    "attention, wide values": (
        (),
        lambda x, w: F.scaled_dot_product_attention(x[None], x[None], torch.cat([x, x], -1)[None]),
    ),
    "attention with a learned mask": (
        (3, 3),
        lambda x, w: F.scaled_dot_product_attention(x[None], x[None], x[None], w),
    ),
    "attention, one key head": ((), lambda x, w: F.scaled_dot_product_attention(x[None], x[None, :1], x[None, :1])),
    "attention to constants": (
        (),
        lambda x, w: F.scaled_dot_product_attention(x.detach()[None], x.detach()[None], x[None]),
    ),
    "attention to a constant value": (
        (),
        lambda x, w: F.scaled_dot_product_attention(x, x, torch.ones(2, 3, 4)),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    weight, body = CALLS[name]
    checked = check(Calling(body, *weight), ((torch.randn(2, 3, 4),), {}))
    assert checked.captured.parts[0].method == "dynamo"
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers(kind: type[nn.RNNBase], layers: int, bidirectional: bool) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.rnn = kind(4, 5, layers, batch_first=True, bidirectional=bidirectional)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(self.fc(x))[0]

    checked = check(Recurrent(), ((torch.randn(2, 3, 4),), {}))
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_recurrent_cells(kind: type[nn.RNNCellBase]) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.cell = kind(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = self.cell(self.fc(x))
            return output[0] if isinstance(output, tuple) else output

    checked = check(Cell(), ((torch.randn(2, 4),), {}))
    assert checked.flops.forward == checked.reference.forward
    assert checked.flops.backward == checked.reference.backward


# -- where the counter is wrong ----------------------------------------------------------------------------------------


def counted(model: nn.Module, x: torch.Tensor, mapping: Any = None) -> Reference:
    return reference(model, ((x,), {}), mapping=mapping)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_the_counter_overcounts_the_backward_of_grouped_convolutions(kind: type[nn.Conv2d], groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), kind(8, 8, 3, groups=groups))
    x = torch.randn(2, 3, 8, 8)
    ours = total_flops(capture(model, x))
    plain, corrected = counted(model, x), counted(model, x, CORRECTED)
    assert ours.forward == plain.forward == corrected.forward
    assert ours.backward == corrected.backward
    positions = 64 if kind is nn.ConvTranspose2d else 36
    one = 2 * 2 * positions * 8 * (8 // groups) * 9
    stem = 2 * 2 * 64 * 8 * 3
    assert ours.backward == stem + 2 * one, "a gradient has as many multiplications as the forward"
    assert plain.backward == stem + one + one * groups, "the counter multiplies one of them by the groups"


def test_the_counter_does_not_see_attention_on_the_cpu() -> None:
    model = Calling(CALLS["attention"][1])
    x = torch.randn(2, 3, 4)
    ours, plain, corrected = total_flops(capture(model, x)), counted(model, x), counted(model, x, CORRECTED)
    fc = 2 * 2 * 3 * 4 * 4
    product = 2 * 2 * 3 * 3 * 4
    assert (plain.forward, plain.backward) == (fc, fc), "attention counts nothing"
    assert (ours.forward, ours.backward) == (corrected.forward, corrected.backward)
    assert ours.forward == fc + 2 * product
    assert ours.backward == fc + 5 * product, "four gradients, and the scores once more"


def test_the_counter_does_not_see_lstms_on_the_cpu() -> None:
    model = nn.LSTM(4, 5)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0]

    x = torch.randn(3, 2, 4)
    plain = counted(First(), x)
    assert (plain.forward, plain.backward) == (0, 0)
    ours = total_flops(capture(First(), x))
    assert ours.forward == 2 * 3 * 2 * (20 * 4 + 20 * 5)
    assert ours.grad_weight == ours.forward


def test_only_what_is_named_here_is_corrected() -> None:
    assert set(CORRECTED) == {
        FUSED,
        FUSED_BACKWARD,
        aten.convolution_backward,
        aten.mkldnn_rnn_layer,
        aten.mkldnn_rnn_layer_backward,
    }


@pytest.mark.parametrize("transposed", [False, True])
def test_the_correction_changes_nothing_for_dense_convolutions(transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4, 6, 3, stride=2), nn.Conv2d(6, 2, 1))
    x = torch.randn(2, 3, 9, 9)
    assert counted(model, x).backward == counted(model, x, CORRECTED).backward


def test_shapes_that_are_unknown_give_no_figure() -> None:
    captured = capture(nn.Sequential(nn.Linear(4, 4)))
    assert total_flops(captured) == Flops()
