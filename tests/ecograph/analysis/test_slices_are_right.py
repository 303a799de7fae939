"""Small random networks on slices against the full network with the dropped units masked: outputs and all gradients.

Whatever the analysis lets pass must be right. What it stops without need is no matter here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from masked import compare
from torch import Tensor, nn

#: Chooses one of some things.
Pick = Callable[[Sequence[Any]], Any]
ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.LeakyReLU, nn.Sigmoid, nn.PReLU)


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


# Of features in the last dimension: (batch, tokens, features).


class Mlp(nn.Module):
    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        hidden = pick([4, 6, 8, 12])
        self.fc1, self.fc2 = nn.Linear(width, hidden, bias=pick([False, True])), nn.Linear(hidden, width)
        self.act = pick(ACTIVATIONS[:-1])()
        self.scale = nn.Parameter(torch.rand(hidden)) if pick([False, True]) else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.fc1(x))
        return self.fc2(hidden if self.scale is None else hidden * self.scale)


class Gated(nn.Module):
    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        hidden = pick([4, 6, 8])
        self.how = pick(["two layers", "chunk", "split", "glu", "unflatten", "getitem"])
        self.fc1 = nn.Linear(width, hidden if self.how == "two layers" else 2 * hidden)
        self.gate = nn.Linear(width, hidden) if self.how == "two layers" else None
        self.fc2 = nn.Linear(hidden, width, bias=False)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        if self.how == "two layers":
            return self.fc2(F.silu(self.gate(x)) * h)
        if self.how == "chunk":
            a, b = h.chunk(2, dim=-1)
        elif self.how == "split":
            a, b = h.split(self.hidden, dim=-1)
        elif self.how == "unflatten":
            a, b = h.unflatten(-1, (2, -1)).unbind(-2)
        elif self.how == "getitem":
            a, b = h[..., : self.hidden], h[..., self.hidden :]
        else:
            return self.fc2(F.glu(h, dim=-1))
        return self.fc2(F.gelu(a) * b)


class Pieces(nn.Module):
    """Layers side by side, joined and taken apart at other places."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        self.sizes = [pick([3, 4, 6]) for _ in range(pick([2, 3]))]
        total = sum(self.sizes)
        self.cut = pick([self.sizes, self.sizes[::-1], [total // 2, total - total // 2]])
        self.makers = nn.ModuleList(nn.Linear(width, size) for size in self.sizes)
        self.norm = nn.GroupNorm(1, total) if pick([False, True]) else nn.Identity()
        self.takers = nn.ModuleList(nn.Linear(size, width) for size in self.cut)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([make(x) for make in self.makers], -1).relu()
        joined = self.norm(joined.transpose(1, 2)).transpose(1, 2)
        parts = torch.split(joined, self.cut, dim=-1)
        return sum(take(part) for take, part in zip(self.takers, parts, strict=True))


class Attention(nn.Module):
    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        self.heads, self.size = pick([2, 3, 4]), pick([2, 3])
        self.packing = pick(["outer", "inner", "permute", "split", "apart"])
        self.fused, self.merged = pick([False, True]), pick([False, True])
        inner = self.heads * self.size
        self.qkv = nn.Linear(width, 3 * inner)
        self.apart = nn.ModuleList(nn.Linear(width, inner) for _ in range(3))
        self.proj = nn.Linear(inner, width)
        self.table = nn.Parameter(torch.randn(self.heads, 1, 1)) if pick([False, True]) else None

    def _packed(self, x: Tensor) -> tuple[Tensor, ...]:
        b, t, _ = x.shape
        h, d = self.heads, self.size
        if self.packing == "apart":
            return tuple(layer(x).view(b, t, -1, d).transpose(1, 2) for layer in self.apart)
        qkv = self.qkv(x)
        if self.packing == "outer":
            return tuple(part.reshape(b, t, h, d).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        if self.packing == "inner":  # as in GPT-NeoX: query, key and value of each head side by side
            return qkv.view(b, t, h, 3 * d).transpose(1, 2).chunk(3, dim=-1)
        if self.packing == "split":
            return tuple(part.view(b, t, h, d).permute(0, 2, 1, 3) for part in qkv.split(h * d, dim=2))
        return qkv.reshape(b, t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self._packed(x)
        if self.fused and self.table is None:
            heads = F.scaled_dot_product_attention(q, k, v)
        elif self.merged:
            q, k, v = (part.reshape(-1, t, self.size) for part in (q, k, v))
            heads = (torch.bmm(q, k.transpose(1, 2)).softmax(-1) @ v).view(b, -1, t, self.size)
        else:
            scores = q @ k.transpose(-2, -1) * self.size**-0.5
            scores = scores if self.table is None else scores + self.table
            heads = scores.softmax(dim=-1) @ v
        return self.proj(heads.transpose(1, 2).reshape(b, t, -1))


class Grouped(nn.Module):
    """Queries that share the heads of keys and values."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        self.kv, self.times, self.size = 2, pick([2, 3]), 2
        self.how = pick(["sdpa", "interleave", "expand"])
        self.q = nn.Linear(width, self.kv * self.times * self.size)
        self.k, self.v = (nn.Linear(width, self.kv * self.size) for _ in range(2))
        self.o = nn.Linear(self.kv * self.times * self.size, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.how == "sdpa":
            return self.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))
        if self.how == "interleave":
            k, v = (part.repeat_interleave(self.times, dim=1) for part in (k, v))
        else:
            k, v = (
                part[:, :, None].expand(b, self.kv, self.times, t, self.size).reshape(b, -1, t, self.size)
                for part in (k, v)
            )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Lookup(nn.Module):
    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        hidden = pick([4, 8])
        self.table, self.fc1, self.fc2 = nn.Embedding(2, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x) + self.table((x[..., 0] > 0).long())))


class Tokens(nn.Module):
    """Mixes tokens, as an MLP-Mixer does, and may not depend on how many there are."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        hidden = pick([4, 6])
        self.fc1, self.fc2, self.norm = nn.Linear(4, hidden), nn.Linear(hidden, 4), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x).transpose(1, 2)))).mT


# Of channels in dimension 1: (batch, channels, 4, 4).


def norm_of(pick: Pick, width: int) -> nn.Module:
    kind = pick(["batch", "batch", "group", "channel", "none"])
    if kind == "batch":
        norm = nn.BatchNorm2d(width)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        return norm
    if kind == "none":
        return nn.Identity()
    return nn.GroupNorm(width // 2 if kind == "group" and width % 2 == 0 else width, width)


class Inverted(nn.Sequential):
    def __init__(self, pick: Pick, width: int) -> None:
        hidden = pick([4, 8, 12])
        groups = pick([hidden, hidden // 2, 2, 1])
        act = pick(ACTIVATIONS)
        bias = pick([False, True])
        super().__init__(
            nn.Conv2d(width, hidden, 1, bias=bias),
            norm_of(pick, hidden),
            act(hidden) if act is nn.PReLU else act(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups, bias=bias),
            norm_of(pick, hidden),
            Excite(pick, hidden) if pick([False, True]) else nn.Identity(),
            nn.Conv2d(hidden, width, 1, bias=bias),
            norm_of(pick, width),
        )


class Excite(nn.Module):
    """Squeeze and excite."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        self.linear = pick([False, True])
        squeezed = pick([2, 4])
        layers = nn.Linear if self.linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.down, self.up = layers(width, squeezed), layers(squeezed, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        return x * self.up(self.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()


class Branches(nn.Module):
    """As in Inception: convolutions side by side."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        self.sizes = [pick([2, 4, 6]) for _ in range(pick([2, 3]))]
        self.paths = nn.ModuleList(
            nn.Conv2d(width, size, kernel, padding=kernel // 2)
            for size, kernel in zip(self.sizes, (1, 3, 3), strict=False)
        )
        total = sum(self.sizes)
        self.norm = norm_of(pick, total)
        self.deep = nn.Conv2d(total, total, 3, padding=1, groups=total) if pick([False, True]) else nn.Identity()
        self.shuffle = pick([False, True])
        self.out = nn.Conv2d(total, width, 1, bias=False)
        self.last = norm_of(pick, width)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.deep(self.norm(torch.cat([path(x) for path in self.paths], dim=1)).relu())
        if self.shuffle:
            b, c, h, w = joined.shape
            joined = joined.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.last(self.out(joined))


class Transposed(nn.Sequential):
    def __init__(self, pick: Pick, width: int) -> None:
        hidden = pick([4, 8])
        groups = pick([1, 2])
        super().__init__(
            nn.ConvTranspose2d(width, hidden, 2, stride=2, groups=pick([1, 2])),
            norm_of(pick, hidden),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, hidden, 3, padding=1, groups=groups),
            nn.MaxPool2d(2) if pick([False, True]) else nn.AvgPool2d(2),
            nn.Conv2d(hidden, width, 3, padding=1, padding_mode=pick(["zeros", "circular"])),
        )


class LastMlp(nn.Module):
    """As in ConvNeXt: an MLP on channels that lie last for it."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        hidden = pick([6, 8])
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.rand(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.spread(x).permute(0, 2, 3, 1))
        return self.gamma * self.fc2(F.gelu(self.fc1(x))).permute(0, 3, 1, 2)


class Flat(nn.Module):
    """A convolution whose result is flattened for a linear layer, as in VGG."""

    def __init__(self, pick: Pick, width: int) -> None:
        super().__init__()
        hidden = pick([2, 4])
        self.conv, self.fc, self.back = nn.Conv2d(width, hidden, 3), nn.Linear(hidden * 4, 6), nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(6) if pick([False, True]) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        flat = self.conv(x).relu().flatten(1)
        return x * self.back(self.norm(self.fc(flat)))[:, :, None, None]


FEATURES = (Mlp, Gated, Pieces, Attention, Attention, Grouped, Lookup, Tokens)
IMAGES = (Inverted, Inverted, Branches, Transposed, LastMlp, Flat)


class ToTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, :4].transpose(1, 2)


def network(pick: Pick) -> tuple[nn.Module, Tensor]:
    width, images = pick([4, 6]), pick([False, True])
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)] if images else [nn.Linear(5, width)]
    for _ in range(pick([1, 2, 3])):
        block = pick(IMAGES if images else FEATURES)(pick, width)
        layers.append(Residual(block) if pick([False, True]) else block)
    if images and pick([False, True]):
        layers += [ToTokens(), pick(FEATURES)(pick, width)]
    layers.append(nn.Flatten())
    x = torch.randn(3, 3, 4, 4) if images else torch.randn(3, 4, 5)
    with torch.no_grad():
        size = nn.Sequential(*layers)(x).shape[1]
    return nn.Sequential(*layers, nn.Linear(size, 3)).double(), x.double()


def some_slices(seed: int, **options: Any) -> int:
    """Compares one random network, and returns how many of its groups were sliced."""
    pick = random.Random(seed).choice
    torch.manual_seed(seed)
    model, x = network(pick)
    options |= {"rate": pick([0.25, 0.5, 0.5, 0.7]), "starts": pick(["grid", "any", "blocks"])}
    try:
        return len(compare(model, ((x,), {}), steps=3, align=1, min_width=2, **options))
    except Exception as error:
        raise AssertionError(f"seed {seed}, {options}: {error}\n{model}") from error


@pytest.mark.parametrize("first", range(0, 32, 8))
def test_training_on_slices_is_training_the_masked_network(first: int) -> None:
    sliced = [some_slices(seed, normalization="flow") for seed in range(first, first + 8)]
    assert sum(map(bool, sliced)) > 0.75 * len(sliced)


@pytest.mark.parametrize("first", range(1000, 1016, 8))
def test_training_on_slices_is_training_the_masked_network_also_scaled_unit_by_unit(first: int) -> None:
    sliced = [some_slices(seed, normalization="probability") for seed in range(first, first + 8)]
    assert sum(map(bool, sliced)) > 0.75 * len(sliced)
