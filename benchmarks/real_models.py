"""Real models of torchvision, timm and transformers, with random weights: what the cost model is checked on."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from real import Real, images, timm, tokens, torchvision, transformers
from torch import Tensor, nn


class UNet(nn.Module):
    """The usual U-Net for images ``(N, 3, H, W)``, with group norms and SiLU as in DDPM."""

    def __init__(self, width: int = 32) -> None:
        """Makes three levels down, a middle and three up."""
        super().__init__()
        self.down = nn.ModuleList([_block(3, width), _block(width, 2 * width), _block(2 * width, 4 * width)])
        self.middle = _block(4 * width, 8 * width)
        self.up = nn.ModuleList([_block(12 * width, 4 * width), _block(6 * width, 2 * width), _block(3 * width, width)])
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns an image for an image."""
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2), kept.pop()], 1))
        image: Tensor = self.head(x)
        return image


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
    )  # fmt: skip


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=6))


def _bert() -> nn.Module:
    return transformers.BertForSequenceClassification(transformers.BertConfig(num_hidden_layers=6))


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=6, num_attention_heads=8, vocab_size=8192
    )
    return transformers.LlamaForCausalLM(config)


REAL: dict[str, Real] = {
    "resnet18": Real(torchvision.models.resnet18, images(96)),
    "resnet50": Real(torchvision.models.resnet50, images(96)),
    "vgg11": Real(torchvision.models.vgg11, images(64)),
    "densenet121": Real(torchvision.models.densenet121, images(96)),
    "mobilenet_v2": Real(torchvision.models.mobilenet_v2, images(96)),
    "mobilenet_v3": Real(torchvision.models.mobilenet_v3_large, images(96)),
    "efficientnet_b0": Real(torchvision.models.efficientnet_b0, images(96)),
    "regnety_008": Real(partial(timm.create_model, "regnety_008"), images(96)),
    "convnext_atto": Real(partial(timm.create_model, "convnext_atto"), images(96)),
    "vit_tiny": Real(partial(timm.create_model, "vit_tiny_patch16_224"), images(224)),
    "deit_small": Real(partial(timm.create_model, "deit_small_patch16_224", img_size=128), images(128)),
    "mixer_s32": Real(partial(timm.create_model, "mixer_s32_224"), images(224)),
    "swin_tiny": Real(partial(timm.create_model, "swin_tiny_patch4_window7_224", img_size=112), images(112)),
    "unet": Real(UNet, images(48)),
    "gpt2": Real(_gpt2, tokens(50257, 32, labels=True)),
    "bert": Real(_bert, tokens(30522, 64, labels=False)),
    "llama": Real(_llama, tokens(8192, 64, labels=True)),
}
