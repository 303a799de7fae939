"""Peak memory against torch's own account of a real step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
import transformers as hf
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ecograph
from ecograph.cost.steps import record_step
from ecograph.cost.steps.conv_memory import AVX512
from ecograph.cost.steps.record import mean_square

HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()

#: What is promised.
TOLERANCE = 0.15


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def real_peak(call: Callable[[], Any], amp: bool = False) -> int:
    """Returns the most bytes that tensors made in a forward and backward held at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            outputs = call()
            loss = mean_square(outputs)
        loss.backward()
        del outputs, loss
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


class UNet(nn.Module):
    """One level down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU())
        self.middle = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.out(torch.cat([x, self.up(self.middle(F.max_pool2d(x, 2)))], 1))


class Sequence(nn.Module):
    """An embedding, an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.out = nn.Embedding(50, 32), nn.LSTM(32, 64), nn.Linear(64, 50)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.table(ids))[0])


class Tied(nn.Module):
    """An embedding whose weight is the head's too, so that it gets two gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(5000, 32), nn.Linear(32, 32)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.inner(self.table(ids[:1])), self.table.weight)


ids = torch.arange(256).view(4, 64) % 50
images = torch.randn(4, 3, 64, 64)
_TEXT = {"input_ids": ids, "labels": ids}
_SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}

MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "resnet18": (torchvision.models.resnet18, images),
    "mobilenet": (torchvision.models.mobilenet_v3_small, images),
    "convnext": (
        lambda: torchvision.models.ConvNeXt(
            [
                torchvision.models.convnext.CNBlockConfig(16, 32, 1),
                torchvision.models.convnext.CNBlockConfig(32, None, 1),
            ],
            num_classes=5,
        ),
        images,
    ),
    "u-net": (UNet, images),
    "vit": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**_SMALL, image_size=64, patch_size=8)),
        images,
    ),
    "gpt2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=50, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
        ),
        _TEXT,
    ),
    "bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**_SMALL, vocab_size=50)), _TEXT),
    "lstm": (Sequence, ids),
    "tied": (Tied, ids),
}
SPARSE = ecograph.passes.SparseBackward(drop=0.8, schedule="constant", when="always")
SLICED = ecograph.passes.SliceOut(rate=0.5, when="always")

CASES = [
    *((name, None, False) for name in MODELS),
    *((name, SPARSE, False) for name in ("resnet18", "u-net", "gpt2")),
    *((name, SLICED, False) for name in ("resnet18", "gpt2")),
    *((name, None, True) for name in ("mobilenet", "bert", "tied")),
]


@pytest.mark.parametrize(("name", "optimized", "amp"), CASES)
def test_the_peak_is_what_torch_measures(name: str, optimized: Any, amp: bool) -> None:
    build, example = MODELS[name]
    torch.manual_seed(0)
    model = build().train()
    if optimized is not None:
        model = ecograph.optimize(model, passes=[optimized], example_inputs=example)
    estimated = record_step(model, example, amp="bf16" if amp else None).activation_bytes

    def call() -> Any:
        return model(**example) if isinstance(example, dict) else model(example)

    mean_square(call()).backward()  # a first step, in which layers decide
    model.zero_grad(set_to_none=True)
    assert estimated == pytest.approx(real_peak(call, amp), rel=TOLERANCE)


class Chain(nn.Module):
    """Elementwise: a sine keeps its input for the backward, a product with a number nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).sin().sin()


def test_by_hand() -> None:
    x = torch.zeros(1000, requires_grad=True)
    unit = 4000 + (-4000) % 64
    step = record_step(Chain(), x, loss=lambda y: y.sum())
    # At its height: what both sines keep, the result, which the caller holds, a cosine, and the gradient it is part of.
    assert step.activation_bytes == pytest.approx(5 * unit, abs=4 * 64)


def test_memory_that_is_freed_is_used_again() -> None:
    class Long(nn.Module):
        def __init__(self, length: int) -> None:
            super().__init__()
            self.length = length

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                for _ in range(self.length):
                    x = x + 1
            return x

    x = torch.zeros(1000)
    one, many = (record_step(Long(length), x).activation_bytes for length in (3, 30))
    assert one == many


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("last", [False, True])
def test_what_a_convolution_takes_for_itself(kernel: int, groups: int, last: bool) -> None:
    conv = nn.Conv2d(16, 16, kernel, padding=kernel // 2, groups=groups)
    if last:
        conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compare(conv, images_of(4, 16, 24, torch.float32, last))


def compare(conv: nn.Conv2d, x: Tensor) -> None:
    estimated = record_step(conv, x).activation_bytes
    conv(x).sum().backward()
    conv.zero_grad(set_to_none=True)
    x.grad = None
    assert estimated == pytest.approx(real_peak(lambda: conv(x)), rel=TOLERANCE)


def images_of(batch: int, channels: int, size: int, dtype: torch.dtype, last: bool = False) -> Tensor:
    x = torch.randn(batch, channels, size, size, dtype=dtype)
    return (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        pytest.param(
            torch.bfloat16, marks=pytest.mark.skipif(HAS_BFLOAT16, reason="oneDNN takes it on this processor")
        ),
    ],
)
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        ((16, 32), {"kernel_size": 3, "padding": 1}),
        ((16, 32), {"kernel_size": 3, "padding": 1, "stride": 2}),
        ((16, 32), {"kernel_size": 1}),
        ((16, 32), {"kernel_size": 3, "padding": 1, "groups": 4}),
        ((24, 24), {"kernel_size": 5, "padding": 2, "groups": 24}),
        ((3, 16), {"kernel_size": 4, "stride": 4}),
    ],
    ids=str,
)
def test_what_torchs_own_kernels_take(channels: tuple[int, int], options: dict[str, int], dtype: torch.dtype) -> None:
    """As products of columns: float64 anywhere, bfloat16 where the processor has no instructions for it."""
    compare(nn.Conv2d(*channels, **options, dtype=dtype), images_of(4, channels[0], 24, dtype))


@pytest.mark.skipif(AVX512, reason="other kernels than with AVX-512")
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("channels", "options", "size"),
    [
        ((64, 64), {"kernel_size": 3, "padding": 1}, 2),  # a kernel larger than the images
        ((32, 32), {"kernel_size": 5, "padding": 2}, 4),
        ((64, 64), {"kernel_size": 3, "padding": 1}, 3),
        ((64, 128), {"kernel_size": 3, "padding": 1, "stride": 2}, 16),
        ((64, 64), {"kernel_size": 7, "padding": 3, "groups": 64}, 14),
        ((64, 64), {"kernel_size": 3, "padding": 1, "groups": 16}, 14),
        ((20, 44), {"kernel_size": 3, "padding": 1}, 14),  # no whole blocks
        ((16, 64), {"kernel_size": 13, "stride": 13}, 104),
        ((16, 64), {"kernel_size": 14, "stride": 14}, 112),  # wider than there are kernels for
        ((3, 64), {"kernel_size": 16, "stride": 16}, 128),
    ],
    ids=str,
)
def test_what_kernels_of_avx2_take(channels: tuple[int, int], options: dict[str, int], size: int, last: bool) -> None:
    conv = nn.Conv2d(*channels, **options)
    if last:
        conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    compare(conv, images_of(8, channels[0], size, torch.float32, last))


def test_kernels_of_the_cpu_take_nothing_where_a_model_will_run_on_a_gpu() -> None:
    conv, x = nn.Conv2d(64, 64, 3, padding=1), images_of(8, 64, 16, torch.float32)
    here, there = (record_step(conv, x, elsewhere=each).activation_bytes for each in (False, True))
    assert there < here
