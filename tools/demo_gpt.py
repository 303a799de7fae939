"""A small GPT over bytes: a model for ``text:stdlib``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: The longest text it reads at once.
CONTEXT = 512
#: One for each byte.
VOCABULARY = 256


class Block(nn.Module):
    """Attention to what came before, then an MLP, each on normed inputs, as in GPT-2 (Radford et al., 2019).

    Input and output ``(N, T, width)``.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Makes the layers."""
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.project(F.gelu(self.expand(self.norm2(x)), approximate="tanh"))
        return y


class GPT(nn.Module):
    """Bytes ``(N, T)`` to scores ``(N, T, 256)`` of the byte that comes next."""

    def __init__(self, width: int = 192, heads: int = 6, depth: int = 4) -> None:
        """Makes the layers; weights begin as GPT-2's do."""
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the scores."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        scores: Tensor = self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))
        return scores
