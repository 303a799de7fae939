"""Real models, trained on slices: outputs, gradients and statistics are those of the masked full network."""

from __future__ import annotations

import pytest
import torch
from masked import compare, in_double, without_dropout
from zoo.entry import Entry
from zoo.language import TRANSFORMERS
from zoo.vision import TIMM, TORCHVISION

pytestmark = pytest.mark.zoo

#: For each model, how many groups at least are sliced.
LEAST = {
    "torchvision:resnet18": 8,
    "torchvision:squeezenet1_1": 8,
    "torchvision:googlenet": 20,
    "torchvision:mobilenet_v3_small": 20,
    "torchvision:mnasnet0_5": 16,
    "torchvision:shufflenet_v2_x0_5": 1,
    "torchvision:regnet_y_400mf": 16,
    "timm:vit_tiny_patch16_224": 4,
    "timm:twins_svt_small": 8,
    "timm:mobilevit_xxs": 20,
    "timm:mixnet_s": 10,
    "timm:eva02_tiny_patch14_224": 2,
    "timm:swin_tiny_patch4_window7_224": 8,
    "timm:crossvit_tiny_240": 8,
    "timm:xcit_nano_12_p16_224": 4,
    "timm:coat_lite_tiny": 8,
    "timm:levit_128s": 8,
    "timm:pvt_v2_b0": 8,
    "timm:mixer_s32_224": 16,
    "timm:resnetv2_18": 8,
    "timm:seresnet18": 16,
    "timm:regnety_002": 16,
    "timm:ghostnet_050": 1,
    "timm:dla46_c": 8,
    "timm:lcnet_035": 4,
    "hf:bert": 4,
    "hf:deberta-v2": 2,
    "hf:gpt2": 4,
    "hf:gpt-neox": 4,
    "hf:llama": 4,
    "hf:mistral": 2,
    "hf:albert": 2,
    "hf:t5": 4,
    "hf:bart": 4,
    "hf:whisper": 4,
    "hf:vit": 4,
    "hf:swin": 4,
    "hf:clip": 8,
    "hf:perceiver": 4,
}

ZOO = {entry.name: entry for entry in (*TORCHVISION, *TIMM, *TRANSFORMERS)}


@pytest.mark.parametrize("name", LEAST)
def test_training_on_slices_is_training_the_masked_network(name: str) -> None:
    entry: Entry = ZOO[name]
    torch.manual_seed(0)
    model = without_dropout(entry.build()).double()
    for module in model.modules():  # the parts of an encoder-decoder have configurations of their own
        if getattr(getattr(module, "config", None), "use_cache", False):
            module.config.use_cache = False
    slices = compare(model, in_double(entry.inputs()), rate=0.5, align=1, min_width=2)
    assert len(slices) >= LEAST[name]
