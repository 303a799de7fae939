"""The models that are timed, built here so that the benchmarks need nothing but torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelSpec:
    """A model to time.

    Attributes:
        build: makes it, with random weights.
        inputs: makes a batch.
        images: whether the batch is images, so that the memory format matters.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    images: bool


class ResidualBlock(nn.Module):
    """ResNet's block: two 3x3 convolutions, or with ``bottleneck`` 1x1, 3x3, 1x1."""

    def __init__(self, channels_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = width * 4 if bottleneck else width
        shapes = [(channels_in, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
        if not bottleneck:
            shapes = [(channels_in, width, 3, stride), (width, width, 3, 1)]
        layers: list[nn.Module] = []
        for a, b, kernel, step in shapes:
            layers += [nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(depths: tuple[int, ...], bottleneck: bool, cifar_stem: bool) -> nn.Module:
    """ResNet of He et al. (2015), as in torchvision; the CIFAR stem is one 3x3 convolution."""
    stem: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    if not cifar_stem:
        stem[0] = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        stem.append(nn.MaxPool2d(3, 2, 1))
    blocks: list[nn.Module] = []
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for i in range(depth):
            blocks.append(ResidualBlock(channels, width, 2 if stage and not i else 1, bottleneck))
            channels = width * 4 if bottleneck else width
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 100))


class ConvNeXtBlock(nn.Module):
    """ConvNeXt's block: depthwise 7x7, then an MLP over channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)
        return x + self.project(F.gelu(self.expand(self.norm(y)))).permute(0, 3, 1, 2)


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, as in ViT and (with ``causal``) GPT-2."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

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


def transformer_stack(width: int, heads: int, depth: int, causal: bool, addmm: bool) -> nn.Module:
    """A stack of blocks, each as in the full model."""
    blocks = nn.Sequential(*(TransformerBlock(width, heads, causal) for _ in range(depth)))
    if addmm:
        for block in blocks:
            for name in ("qkv", "proj", "fc1", "fc2"):
                setattr(block, name, AddmmLinear(getattr(block, name)))
    return blocks


MODELS: dict[str, ModelSpec] = {
    "resnet18": ModelSpec(lambda: resnet((2, 2, 2, 2), False, True), lambda: torch.randn(32, 3, 32, 32), True),
    "resnet50": ModelSpec(lambda: resnet((3, 4, 6, 3), True, False), lambda: torch.randn(8, 3, 128, 128), True),
    "convnext": ModelSpec(
        lambda: nn.Sequential(*(ConvNeXtBlock(192) for _ in range(4))), lambda: torch.randn(8, 192, 28, 28), True
    ),
    "vit-s": ModelSpec(lambda: transformer_stack(384, 6, 4, False, False), lambda: torch.randn(8, 197, 384), False),
    "gpt2": ModelSpec(lambda: transformer_stack(768, 12, 3, True, True), lambda: torch.randn(4, 256, 768), False),
}
