"""The models that are timed, built here so that the benchmarks need nothing but torch.

Every model takes a ``share``: its inner widths at that share of the full ones. Inner widths are those that are in no
sum: the hidden width of an MLP, the heads of an attention, the channels between a residual block's convolutions, and
those of a stem that the first block widens. The residual stream stays full. Where a pass slices inner widths during
training, the network built with ``share`` is the one that has nothing else to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelSpec:
    """A model to time.

    Attributes:
        build: makes it, with random weights; takes the share of its inner widths, 1 if not given.
        inputs: makes a batch.
        images: whether the batch is images, so that the memory format matters.
        whole: whether it is a network that could be trained, and not a part of one.
    """

    build: Callable[..., nn.Module]
    inputs: Callable[[], Tensor]
    images: bool
    whole: bool = False


def narrowed(width: int, share: float, multiple: int = 8) -> int:
    """Returns the multiple of ``multiple`` that is nearest to a ``share`` of ``width``, but never more than that."""
    return min(width, max(math.floor(share * width / multiple + 0.5 + 1e-9), 1) * multiple)


class ResidualBlock(nn.Module):
    """ResNet's block: two 3x3 convolutions, or with ``bottleneck`` 1x1, 3x3, 1x1."""

    def __init__(self, channels_in: int, width: int, stride: int, bottleneck: bool, share: float = 1.0) -> None:
        super().__init__()
        out, inner = width * 4 if bottleneck else width, narrowed(width, share)
        shapes = [(channels_in, inner, 1, 1), (inner, inner, 3, stride), (inner, out, 1, 1)]
        if not bottleneck:
            shapes = [(channels_in, inner, 3, stride), (inner, width, 3, 1)]
        layers: list[nn.Module] = []
        for a, b, kernel, step in shapes:
            layers += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(depths: tuple[int, ...], bottleneck: bool, cifar_stem: bool, share: float = 1.0) -> nn.Module:
    """ResNet of He et al. (2015), as in torchvision; the CIFAR stem is one 3x3 convolution."""
    channels = narrowed(64, share) if bottleneck else 64  # a first bottleneck widens them, so they are in no sum
    kernel, step = (3, 1) if cifar_stem else (7, 2)
    stem: list[nn.Module] = [
        nn.Conv2d(3, channels, kernel, step, kernel // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]
    if not cifar_stem:
        stem.append(nn.MaxPool2d(3, 2, 1))
    blocks: list[nn.Module] = []
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for i in range(depth):
            blocks.append(ResidualBlock(channels, width, 2 if stage and not i else 1, bottleneck, share))
            channels = width * 4 if bottleneck else width
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 100))


class PreActivationBlock(nn.Module):
    """Wide ResNet's block (Zagoruyko and Komodakis, 2016): twice BatchNorm, ReLU, 3x3 convolution."""

    def __init__(self, channels_in: int, width: int, stride: int, share: float = 1.0) -> None:
        super().__init__()
        inner = narrowed(width, share)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels_in), nn.BatchNorm2d(inner)
        self.conv1 = nn.Conv2d(channels_in, inner, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(inner, width, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels_in != width:
            self.shortcut = nn.Conv2d(channels_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(F.relu(self.norm2(self.conv1(y))))


def wide_resnet(
    widths: tuple[int, ...], blocks: int, *, share: float = 1.0, channels_in: int = 3, classes: int = 10
) -> nn.Module:
    """A Wide ResNet with ``blocks`` blocks of each width; (128, 256, 512) and 2 are Wide ResNet-16-8."""
    channels = 16  # in no sum, since the first block widens them, but SliceOut leaves widths below 32 whole
    layers: list[nn.Module] = [nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False)]
    for group, width in enumerate(widths):
        for i in range(blocks):
            layers.append(PreActivationBlock(channels, width, 2 if group and not i else 1, share))
            channels = width
    head = (nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return nn.Sequential(*layers, *head)


class ConvNeXtBlock(nn.Module):
    """ConvNeXt's block: depthwise 7x7, then an MLP over channels."""

    def __init__(self, width: int, share: float = 1.0) -> None:
        super().__init__()
        hidden = narrowed(4 * width, share)
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + self.project(F.gelu(self.expand(self.norm(y)))).permute(0, 3, 1, 2)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, as in ViT and (with ``causal``) GPT-2; ``share`` is of hidden width and heads."""

    def __init__(self, width: int, heads: int, causal: bool, share: float = 1.0) -> None:
        super().__init__()
        self.heads, self.causal = narrowed(heads, share, 1), causal
        inner, hidden = self.heads * (width // heads), narrowed(4 * width, share)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * inner), nn.Linear(inner, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class AddmmLinear(nn.Module):
    """A linear layer with an ``(in, out)`` weight and ``addmm``, as GPT-2 has it in Hugging Face's code."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().t().contiguous())
        self.bias = nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], self.weight.shape[1])


def transformer_stack(
    width: int, heads: int, depth: int, causal: bool, addmm: bool, share: float = 1.0
) -> nn.Sequential:
    """A stack of blocks, each as in the full model."""
    blocks = nn.Sequential(*(TransformerBlock(width, heads, causal, share) for _ in range(depth)))
    if addmm:
        for block in blocks:
            for name in ("qkv", "proj", "fc1", "fc2"):
                setattr(block, name, AddmmLinear(getattr(block, name)))
    return blocks


class LanguageModel(nn.Module):
    """A GPT over bytes: tokens ``(N, T)`` to scores ``(N, T, vocabulary)``; weights begin as GPT-2's do."""

    def __init__(
        self, width: int, heads: int, depth: int, context: int, *, share: float = 1.0, vocabulary: int = 256
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = transformer_stack(width, heads, depth, True, False, share)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))


def _mlp(share: float = 1.0) -> nn.Module:
    hidden = narrowed(2048, share)
    return nn.Sequential(nn.Linear(512, hidden), nn.ReLU(), nn.Linear(hidden, 512))


def _wide_group(share: float = 1.0) -> nn.Module:
    return nn.Sequential(*(PreActivationBlock(256, 256, 1, share) for _ in range(2)))


def _convnext(share: float = 1.0) -> nn.Module:
    return nn.Sequential(*(ConvNeXtBlock(192, share) for _ in range(4)))


MODELS: dict[str, ModelSpec] = {
    "resnet18": ModelSpec(
        partial(resnet, (2, 2, 2, 2), False, True), lambda: torch.randn(32, 3, 32, 32), images=True, whole=True
    ),
    "resnet50": ModelSpec(
        partial(resnet, (3, 4, 6, 3), True, False), lambda: torch.randn(8, 3, 128, 128), images=True, whole=True
    ),
    "convnext": ModelSpec(_convnext, lambda: torch.randn(8, 192, 28, 28), images=True),
    "vit-s": ModelSpec(
        partial(transformer_stack, 384, 6, 4, False, False), lambda: torch.randn(8, 197, 384), images=False
    ),
    "gpt2": ModelSpec(
        partial(transformer_stack, 768, 12, 3, True, True), lambda: torch.randn(4, 256, 768), images=False
    ),
    "mlp": ModelSpec(_mlp, lambda: torch.randn(2048, 512), images=False),
    "wrn-block": ModelSpec(_wide_group, lambda: torch.randn(16, 256, 16, 16), images=True),
    "wrn-16-8": ModelSpec(
        partial(wide_resnet, (128, 256, 512), 2), lambda: torch.randn(16, 3, 32, 32), images=True, whole=True
    ),
    "lm": ModelSpec(
        partial(LanguageModel, 384, 6, 6, 128), lambda: torch.randint(256, (16, 128)), images=False, whole=True
    ),
}
