"""Models of torchvision and timm: the smallest variant of each family, shallow where the depth is an option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torchvision
from torch import nn

from zoo.entry import Entry, image


def _torchvision(name: str, size: int = 64, **options: Any) -> Entry:
    def build() -> nn.Module:
        return torchvision.models.get_model(name, weights=None, **options)

    return Entry(f"torchvision:{name}", build, image(size))


_SEGMENTATION = {"weights_backbone": None, "num_classes": 5}

TORCHVISION = [
    _torchvision("alexnet", 96),
    _torchvision("vgg11", 64, init_weights=False),
    _torchvision("resnet18"),
    _torchvision("squeezenet1_1"),
    _torchvision("googlenet", 96, init_weights=False),
    _torchvision("mobilenet_v3_small"),
    _torchvision("mnasnet0_5"),
    _torchvision("shufflenet_v2_x0_5"),
    _torchvision("regnet_y_400mf"),
    _torchvision("convnext_tiny"),
    _torchvision("vit_b_32", 64, image_size=64),
    _torchvision("swin_t"),
    _torchvision("fcn_resnet50", **_SEGMENTATION),
    _torchvision("deeplabv3_mobilenet_v3_large", **_SEGMENTATION),
    _torchvision("lraspp_mobilenet_v3_large", **_SEGMENTATION),
]


def _timm(name: str, size: int = 224, *, unseen: dict[str, str] | None = None, **options: Any) -> Entry:
    def build() -> nn.Module:
        return timm.create_model(name, **options)

    return Entry(f"timm:{name}", build, image(size), unseen=unseen)


def _family(make: Callable[..., Entry], *names: str) -> list[Entry]:
    return [make(name) for name in names]


_SHAPES = "multiplied in a forward whose branches depend on shapes, by a parameter that is no layer's"

TIMM = [
    # those that plain symbolic tracing cannot take
    _timm("convit_tiny", depth=3, local_up_to_layer=2),
    _timm("hiera_tiny_224", stages=(1, 1, 2, 1)),
    _timm("mvitv2_tiny", unseen={"rel_pos": _SHAPES}),
    _timm("vgg11", 64),
    _timm("vit_tiny_patch16_224", depth=2),
    _timm("twins_svt_small", depths=(1, 1, 2, 1)),
    _timm("mobilevit_xxs", 256),
    _timm("nasnetalarge", 331, num_classes=10),
    # weights that are standardized, padding that depends on the image, and other layers with a forward of their own
    _timm("resnetv2_50x1_bit", 64),
    _timm("tf_efficientnet_b0", 64),
    _timm("dm_nfnet_f0", 64),
    _timm("mixnet_s", 64),
    _timm("tf_efficientnet_cc_b0_4e", 64, unseen={"blocks.5.0.conv_dw": _SHAPES}),
    # recurrent layers, relative positions, attention of many kinds
    _timm("sequencer2d_s", layers=(1, 1, 1, 1)),
    _timm("beit_base_patch16_224", depth=2),
    _timm("eva02_tiny_patch14_224", depth=2),
    _timm("swin_tiny_patch4_window7_224", depths=(1, 2, 1, 1)),
    _timm("swinv2_tiny_window8_256", 256, depths=(1, 2, 1, 1)),
    _timm("cait_xxs24_224", depth=2),
    _timm("coat_lite_tiny"),
    _timm("crossvit_tiny_240", 240, depth=((1, 2, 0), (1, 2, 0), (1, 2, 0))),
    _timm("xcit_nano_12_p16_224", depth=2),
    _timm("maxvit_rmlp_pico_rw_256", 256, depths=(1, 1, 1, 1)),
    _timm("davit_tiny", depths=(1, 1, 1, 1)),
    _timm("deit_tiny_distilled_patch16_224", depth=2),
    _timm("efficientformer_l1"),
    _timm("edgenext_xx_small", 256),
    _timm("levit_128s"),
    _timm("pit_ti_224"),
    _timm("pvt_v2_b0"),
    _timm("halonet26t", 256),
    # mixers
    _timm("mixer_s32_224"),
    _timm("mambaout_femto"),
    # convolutions
    *_family(
        lambda name: _timm(name, 64),
        *("resnet18", "resnetv2_18", "seresnet18", "convnext_atto", "regnety_002"),
        *("dla46_c", "ghostnet_050", "repvgg_a0", "hgnetv2_b0", "lcnet_035"),
    ),
]
