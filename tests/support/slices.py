"""Models to slice, and one training step of a sliced model against the full network with dropped units masked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from masked import Masked
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ecograph.record import records


class Mlp(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.up, self.mid, self.down = nn.Linear(12, width), nn.Linear(width, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.mid(F.gelu(self.up(x)))))


class PreActivation(nn.Module):
    """Wide ResNet's block."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if channels != width else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(F.relu(self.norm2(self.conv1(y))))


def wide_resnet() -> nn.Module:
    blocks = [PreActivation(16, 32, 1), PreActivation(32, 32, 1), PreActivation(32, 48, 2)]
    head = [nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), *blocks, *head)


class Block(nn.Module):
    """A transformer's block, pre-norm."""

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


class Gpt(nn.Module):
    """Tokens to scores; ``reentrant`` turns activation checkpointing of the blocks on."""

    def __init__(self, depth: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(31, 32), nn.Parameter(torch.randn(16, 32))
        self.blocks = nn.ModuleList(Block(32, 4, True) for _ in range(depth))
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(32, 31, bias=False)
        self.reentrant: bool | None = None

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
            x = self.dropout(x)
        return self.head(x)


def vit() -> nn.Module:
    return nn.Sequential(Block(32, 4, False), Block(32, 4, False), nn.LayerNorm(32), nn.Linear(32, 5))


class Routed(nn.Module):
    """Products, a batch norm and sizes spelled out in a forward of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(12, 32) / 4), nn.Parameter(torch.randn(6, 32) / 4)
        self.gain, self.mean = nn.Parameter(torch.ones(32)), nn.Buffer(torch.zeros(32))
        self.shift, self.var = nn.Parameter(torch.zeros(32)), nn.Buffer(torch.ones(32))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.addmm(self.shift, x, self.up)
        h = F.batch_norm(h, self.mean, self.var, self.gain, None, self.training)
        h = h.view(x.shape[0], 4, 8).transpose(0, 1).relu().transpose(0, 1).reshape(x.shape[0], 32)
        return F.linear(h, self.down)


class Inverted(nn.Module):
    """Two inverted bottlenecks of MobileNetV3, with squeeze-excitation."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig

        settings = [(16, 3, 48, 16, True, "RE", 1, 1), (16, 5, 64, 24, True, "HS", 2, 1)]
        blocks = [InvertedResidual(InvertedResidualConfig(*s, 1.0), nn.BatchNorm2d) for s in settings]
        self.stem, self.blocks = nn.Conv2d(3, 16, 3, bias=False), nn.Sequential(*blocks)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def mobilenet() -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    return mobilenet_v3_small(num_classes=5, dropout=0.0)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=31,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForMaskedLM(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=31, n_positions=16, use_cache=False,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def ids() -> Tensor:
    return torch.randint(0, 31, (3, 10))


#: name -> what builds the model, and what makes an input.
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MLP": (Mlp, lambda: torch.randn(6, 12)),
    "Wide ResNet": (wide_resnet, lambda: torch.randn(4, 3, 8, 8)),
    "ViT": (vit, lambda: torch.randn(3, 7, 32)),
    "GPT": (Gpt, ids),
    "routed": (Routed, lambda: torch.randn(6, 12)),
    "inverted": (Inverted, lambda: torch.randn(4, 3, 12, 12)),
    "MobileNet": (mobilenet, lambda: torch.randn(3, 3, 64, 64)),
    "BERT": (bert, ids),
    "GPT-2": (gpt2, ids),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A model in training mode, always the same, and an input. Batch norms start where nothing is 0 or 1."""
    torch.manual_seed(0)
    make, make_input = MODELS[name]
    model = make().train().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    x = make_input()
    return model, x.to(dtype) if x.is_floating_point() else x


def call(model: nn.Module, x: Any) -> Tensor:
    """The model's output, without the containers of a library."""
    output = model(x)
    return output.logits if hasattr(output, "logits") else output


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, every gradient and every buffer after one training step. No gradient is None."""
    x = x.detach().clone()
    if x.is_floating_point():
        x.requires_grad_()
    model.zero_grad()
    output = call(model, x)
    (output * cotangent(output)).sum().backward()
    found = {"output": output.detach().clone()}
    if x.is_floating_point():
        found["grad input"] = x.grad
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"the gradient of {name} is None"
        found[f"grad {name}"] = parameter.grad.clone()
    return found | {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}


def cotangent(output: Tensor) -> Tensor:
    """What the output is multiplied by before it is summed up."""
    return torch.linspace(-1, 2, output.numel(), dtype=output.dtype).sin().view_as(output)


def slices(model: nn.Module) -> dict[str, Any]:
    """What is in force on each group that is sliced."""
    return {group.name: group.slice for group in records(model)[0].groups if group.slice is not None}


def starts(model: nn.Module) -> tuple[int, ...]:
    """Where the slices in force begin."""
    return tuple(group.start for group in slices(model).values())


class Reference:
    """The full network, masked: a plain copy of the model, made before it is optimized.

    Args:
        model: the plain model.
        x: an example input.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = copy.deepcopy(model)
        self.masked = Masked(self.model, x)
        self.width = call(copy.deepcopy(model), x).shape[-1]

    def step(self, sliced: nn.Module, x: Tensor) -> dict[str, Tensor]:
        """The step that ``sliced`` has just made, as :func:`step` gives it.

        Statistics of channels that were cut off are as they were before the step: the masked network's own move on.
        """
        in_force = {name: found for name, found in slices(sliced).items() if found.active}
        before = copy.deepcopy(dict(self.model.named_buffers()))
        x = x.detach().clone()
        if x.is_floating_point():
            x.requires_grad_()
        self.model.zero_grad()
        results = self.masked(in_force, x)
        output = next(each for each in results if each.shape[-1] == self.width)
        (output * cotangent(output)).sum().backward()
        for name, old in before.items():
            if (kept := self.masked.kept(name)) is not None:
                now = self.model.get_buffer(name)
                now.copy_(torch.where(kept, now, old))
        found = {"output": output.detach().clone()}
        if x.is_floating_point():
            found["grad input"] = x.grad
        found |= {f"grad {name}": p.grad.clone() for name, p in self.model.named_parameters()}
        return found | {f"buffer {name}": buffer.clone() for name, buffer in self.model.named_buffers()}


def differing(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-8) -> dict[str, float]:
    """What differs by more than ``tolerance`` of its largest element, and by how much."""
    assert found.keys() == expected.keys()
    errors = {}
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype, name
        if value.numel():
            errors[name] = ((found[name] - value).abs().max() / (value.abs().max() + 1e-2)).item()
    return {name: error for name, error in errors.items() if not error <= tolerance}
