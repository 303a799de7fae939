"""Small models for the export, each with products that are called in another way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions with groups, a stride, a bias, a dilation, a transposed one; norms; a frozen and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.frozen = nn.Conv2d(32, 32, 1)
        self.up = nn.ConvTranspose2d(32, 24, 3, stride=2, padding=1, output_padding=1)
        self.uneven = nn.Conv2d(24, 20, (3, 5), padding=(2, 1), dilation=(2, 1))
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(20 * 12, 5)
        self.frozen.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        y = F.relu(self.norm(self.grouped(F.relu(self.stem(image)))))
        y = self.uneven(F.relu(self.up(self.frozen(y))))
        scores: Tensor = self.head(self.pool(torch.tanh(y)).flatten(1))
        return scores


class Tokens(nn.Module):
    """Tokens ``(N, T)`` to scores ``(N, T, 12)``: three dimensions, an (in, out) weight, tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 32)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Parameter(torch.randn(32, 48) / 6)
        self.up_bias = nn.Parameter(torch.zeros(48))
        self.down = nn.Linear(48, 32)
        self.head = nn.Linear(32, 12, bias=False)
        nn.init.normal_(self.embed.weight, std=0.2)  # saturated scores would make channels tie
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y = F.gelu(torch.addmm(self.up_bias, self.norm(x).flatten(0, 1), self.up)).view(*tokens.shape, 48)
        scores: Tensor = self.head(x + self.down(y))
        return scores


class Mixer(nn.Module):
    """Images ``(N, 3, 8, 8)`` to 5 scores, with what slices must get right.

    Batch norms that are sliced, take a scale out and carry one; a packed projection with as many blocks as it has
    parts; heads whose number is spelled out; a depthwise convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body, self.body_norm = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.each, self.each_norm = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32)
        self.out, self.out_norm = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.qkv, self.proj = nn.Linear(16, 3 * 32), nn.Linear(32, 16)
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        y = F.relu(self.body_norm(self.body(image)))
        y = self.out_norm(self.out(F.relu(self.each_norm(self.each(y)))))
        x = y.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).view(x.shape[0], -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        scores: Tensor = self.head((x + self.down(F.gelu(self.up(x)))).mean(1))
        return scores
