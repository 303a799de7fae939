"""Which channel groups there are: lists written by hand from the architectures, and what stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
import transformers as hf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from ecograph.analysis import find_sites
from ecograph.analysis.channels import Channels, find_channels
from ecograph.capture import capture
from ecograph.capture.graph import module_path

#: ``(name, units, all members)``.
Expected = tuple[str, int, set[str]]


def channels_of(model: nn.Module, *args: Any, **kwargs: Any) -> Channels:
    captured = capture(model, (args, kwargs) if args or kwargs else None)
    return find_channels(captured, find_sites(captured, model), model)


def found(channels: Channels) -> list[tuple[str, int, set[str]]]:
    return [(group.name, group.units, set(group.members)) for group in channels.groups]


def reasons(channels: Channels) -> dict[str, str]:
    return {stopped.name: stopped.reason for stopped in channels.stopped}


def below(path: str, *names: str) -> set[str]:
    return {f"{path}.{name}" for name in names}


# Convolutional networks.


def basic(depths: tuple[int, ...]) -> Iterator[Expected]:
    """ResNet's basic blocks: the width between their two convolutions."""
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            path = f"layer{stage}.{block}"
            yield f"{path}.conv1", 32 * 2**stage, below(path, "conv1", "bn1", "conv2")


def bottleneck(depths: tuple[int, ...], width: int) -> Iterator[Expected]:
    """The stem, which nothing is added to, and the two inner widths of every block."""
    yield "conv1", 64, {"conv1", "bn1", "layer1.0.conv1", "layer1.0.downsample.0"}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            path = f"layer{stage + 1}.{block}"
            yield f"{path}.conv1", width * 2**stage, below(path, "conv1", "bn1", "conv2")
            yield f"{path}.conv2", width * 2**stage, below(path, "conv2", "bn2", "conv3")


def vgg11() -> Iterator[Expected]:
    layers = [*(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), *(f"classifier.{i}" for i in (0, 3, 6))]
    widths = [64, 128, 256, 256, 512, 512, 512, 512, 4096, 4096]
    for name, width, after in zip(layers, widths, layers[1:], strict=False):
        yield name, width, {name, after}


def mobilenet_v2() -> Iterator[Expected]:
    first = below("features.1.conv", "0.0", "0.1", "1")
    yield "features.0.0", 32, {"features.0.0", "features.0.1", *first}
    # A stage of one block adds nothing to its output.
    yield "features.1.conv.1", 16, {*below("features.1.conv", "1", "2"), "features.2.conv.0.0"}
    width, number = 16, 2
    for out, depth in ((24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)):
        for _ in range(depth):
            path = f"features.{number}.conv"
            yield f"{path}.0.0", 6 * width, below(path, "0.0", "0.1", "1.0", "1.1", "2")
            width, number = out, number + 1
    yield "features.17.conv.2", 320, {*below("features.17.conv", "2", "3"), "features.18.0"}
    yield "features.18.0", 1280, {"features.18.0", "features.18.1", "classifier.1"}


def squeezed(path: str, squeeze: int) -> Expected:
    return f"{path}.fc1", squeeze, below(path, "fc1", "fc2")


def mobilenet_v3_small() -> Iterator[Expected]:
    block = "features.1.block"
    yield "features.0.0", 16, {
        "features.0.0", "features.0.1", *below(block, "0.0", "0.1", "1.fc1", "1.fc2", "2.0"),
    }  # fmt: skip
    yield squeezed(f"{block}.1", 8)
    yield f"{block}.2.0", 16, {*below(block, "2.0", "2.1"), "features.2.block.0.0"}
    rows = [(72, 0), (88, 0), (96, 24), (240, 64), (240, 64), (120, 32), (144, 40), (288, 72), (576, 144), (576, 144)]
    for number, (width, squeeze) in enumerate(rows, 2):
        block = f"features.{number}.block"
        if squeeze:
            names = ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0")
            yield squeezed(f"{block}.2", squeeze)
        else:
            names = ("0.0", "0.1", "1.0", "1.1", "2.0")
        yield f"{block}.0.0", width, below(block, *names)
    yield "features.12.0", 576, {"features.12.0", "features.12.1", "classifier.0"}
    yield "classifier.0", 1024, {"classifier.0", "classifier.3"}


def efficientnet_b0() -> Iterator[Expected]:
    block = "features.1.0.block"
    yield "features.0.0", 32, {
        "features.0.0", "features.0.1", *below(block, "0.0", "0.1", "1.fc1", "1.fc2", "2.0"),
    }  # fmt: skip
    yield squeezed(f"{block}.1", 8)
    yield f"{block}.2.0", 16, {*below(block, "2.0", "2.1"), "features.2.0.block.0.0"}
    width = 16
    for stage, (out, depth) in enumerate(((24, 2), (40, 2), (80, 3), (112, 3), (192, 4), (320, 1)), 2):
        for i in range(depth):
            block = f"features.{stage}.{i}.block"
            yield f"{block}.0.0", 6 * width, below(block, "0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0")
            yield squeezed(f"{block}.2", width // 4)
            width = out
    yield "features.7.0.block.3.0", 320, {*below("features.7.0.block.3", "0", "1"), "features.8.0"}
    yield "features.8.0", 1280, {"features.8.0", "features.8.1", "classifier.1"}


def convnext_tiny() -> Iterator[Expected]:
    for stage, (width, depth) in enumerate(zip((96, 192, 384, 768), (3, 3, 9, 3), strict=True)):
        for i in range(depth):
            block = f"features.{2 * stage + 1}.{i}.block"
            yield f"{block}.3", 4 * width, below(block, "3", "5")


# Transformers.


def vit() -> Iterator[Expected]:
    for i in range(3):
        path = f"encoder.layers.encoder_layer_{i}"
        attention = f"{path}.self_attention"
        yield f"{attention}.in_proj_weight", 12, {attention, *below(attention, "in_proj_weight", "out_proj")}
        yield f"{path}.mlp.0", 3072, below(f"{path}.mlp", "0", "3")


def timm_vit() -> Iterator[Expected]:
    for i in range(2):
        yield f"blocks.{i}.attn.qkv", 3, below(f"blocks.{i}.attn", "qkv", "proj")
        yield f"blocks.{i}.mlp.fc1", 768, below(f"blocks.{i}.mlp", "fc1", "fc2")


def swin() -> Iterator[Expected]:
    for stage, (width, heads) in enumerate(((16, 2), (32, 4))):
        for i in range(2):
            path = f"features.{2 * stage + 1}.{i}"
            # The layer itself holds the table of relative positions, which has a column for every head.
            yield f"{path}.attn.qkv", heads, {f"{path}.attn", *below(f"{path}.attn", "qkv", "proj")}
            yield f"{path}.mlp.0", 4 * width, below(f"{path}.mlp", "0", "3")


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.randint(3, 64, (2, 16), generator=torch.Generator().manual_seed(0))


def bert() -> Iterator[Expected]:
    for i in range(2):
        layer = f"bert.encoder.layer.{i}"
        heads = below(layer, "attention.self.query", "attention.self.key", "attention.self.value")
        yield f"{layer}.attention.self.query", 4, {*heads, f"{layer}.attention.output.dense"}
        yield f"{layer}.intermediate.dense", 96, below(layer, "intermediate.dense", "output.dense")


def gpt2() -> Iterator[Expected]:
    for i in range(2):
        block = f"transformer.h.{i}"
        yield f"{block}.attn.c_attn", 4, below(block, "attn.c_attn", "attn.c_proj")
        yield f"{block}.mlp.c_fc", 128, below(block, "mlp.c_fc", "mlp.c_proj")


def llama() -> Iterator[Expected]:
    for i in range(2):
        layer = f"model.layers.{i}"
        yield f"{layer}.self_attn.q_proj", 2, below(f"{layer}.self_attn", "q_proj", "k_proj", "v_proj", "o_proj")
        yield f"{layer}.mlp.gate_proj", 96, below(f"{layer}.mlp", "gate_proj", "up_proj", "down_proj")


def hf_vit() -> Iterator[Expected]:
    for i in range(2):
        layer = f"vit.layers.{i}"
        names = below(f"{layer}.attention", "q_proj", "k_proj", "v_proj", "o_proj")
        yield f"{layer}.attention.q_proj", 4, names
        yield f"{layer}.mlp.fc1", 96, below(f"{layer}.mlp", "fc1", "fc2")


def albert() -> Iterator[Expected]:
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    yield f"{layer}.attention.query", 4, below(f"{layer}.attention", "query", "key", "value", "dense")
    yield f"{layer}.ffn", 96, below(layer, "ffn", "ffn_output")


@dataclass
class Case:
    """A model of a known architecture.

    Attributes:
        name: of the test.
        build: returns the model.
        expected: its groups.
        inputs: keyword inputs, or the size of an image.
    """

    name: str
    build: Callable[[], nn.Module]
    expected: Callable[[], Iterator[Expected]]
    inputs: dict[str, Tensor] | int = 64

    def channels(self) -> Channels:
        with torch.device("meta"):
            model = self.build()
        if isinstance(self.inputs, int):
            return channels_of(model, torch.zeros(2, 3, self.inputs, self.inputs))
        return channels_of(model, **self.inputs)


TEXT = {"input_ids": IDS, "labels": IDS}
CASES = [
    Case("resnet18", tv.resnet18, lambda: basic((2, 2, 2, 2))),
    Case("resnet50", tv.resnet50, lambda: bottleneck((3, 4, 6, 3), 64)),
    Case("wide_resnet50_2", tv.wide_resnet50_2, lambda: bottleneck((3, 4, 6, 3), 128)),
    Case("vgg11", tv.vgg11, vgg11),
    Case("mobilenet_v2", tv.mobilenet_v2, mobilenet_v2),
    Case("mobilenet_v3_small", tv.mobilenet_v3_small, mobilenet_v3_small),
    Case("efficientnet_b0", tv.efficientnet_b0, efficientnet_b0),
    Case("convnext_tiny", tv.convnext_tiny, convnext_tiny),
    Case("vit_b_32", lambda: VisionTransformer(64, 32, 3, 12, 768, 3072), vit),
    Case("timm vit_tiny", lambda: timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64), timm_vit),
    Case("swin", lambda: SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4]), swin),
    Case("BERT", lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL)), bert, TEXT),
    Case("GPT-2", lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, use_cache=False)), gpt2, TEXT),
    Case(
        "Llama",
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False)),
        llama,
        TEXT,
    ),
    Case(
        "ViT of Hugging Face",
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**SMALL, image_size=32, patch_size=8)),
        hf_vit,
        {"pixel_values": torch.zeros(2, 3, 32, 32)},
    ),
    Case(
        "ALBERT",
        lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**SMALL, embedding_size=16, pad_token_id=0)),
        albert,
        TEXT,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_groups_of_known_architectures(case: Case) -> None:
    channels = case.channels()
    key = lambda each: each[0]  # noqa: E731
    assert sorted(found(channels), key=key) == sorted(case.expected(), key=key)
    in_groups = {site.name for group in channels.groups for site in group.producers}
    assert in_groups.isdisjoint(reasons(channels))
    assert all(reasons(channels).values())


def test_who_makes_and_who_takes_a_gated_mlp_and_shared_heads() -> None:
    (case,) = (case for case in CASES if case.name == "Llama")
    heads, mlp, *_ = case.channels().groups
    assert [site.name.rpartition(".")[2] for site in heads.producers] == ["q_proj", "k_proj", "v_proj"]
    assert [site.name.rpartition(".")[2] for site in heads.consumers] == ["o_proj"]
    assert (heads.units, heads.inner, heads.width) == (2, 16, 32)  # two heads of queries for one of keys and values
    assert [site.name.rpartition(".")[2] for site in mlp.producers] == ["gate_proj", "up_proj"]
    assert [site.name.rpartition(".")[2] for site in mlp.consumers] == ["down_proj"]


def test_the_cache_of_keys_and_values_is_an_output_and_the_reason_names_the_fix() -> None:
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, use_cache=True))
    channels = channels_of(model, input_ids=IDS, labels=IDS)
    assert [group.name for group in channels.groups] == ["transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc"]
    reason = reasons(channels)["transformer.h.0.attn.c_attn"]
    assert "output of the graph" in reason
    assert "model.config.use_cache = False" in reason


def test_the_loss_of_a_model_that_computes_it_is_a_reason() -> None:
    (case,) = (case for case in CASES if case.name == "BERT")
    stopped = reasons(case.channels())
    assert stopped["cls.predictions.decoder"].startswith(("it is an output", "there is no rule for cross_entropy"))


def test_layers_of_a_residual_stream_say_where_it_is_summed() -> None:
    (case,) = (case for case in CASES if case.name == "resnet18")
    stopped = reasons(case.channels())
    assert stopped["layer1.0.conv2"] == "it is a residual stream (summed in layer1.0)"
    assert stopped["conv1"] == "it is a residual stream (summed in layer1.0)"
    assert stopped["layer2.0.downsample.0"] == "it is a residual stream (summed in layer2.0)"
    assert stopped["fc"] == "it is an output of the graph"
    assert set(stopped) == {
        *("conv1", "fc"),
        *(f"layer{stage}.{block}.conv2" for stage in range(1, 5) for block in range(2)),
        *(f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)),
    }


# Small models.


class Model(nn.Module):
    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.body = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self.body(self, *inputs)


def linear(*sizes: int) -> nn.Linear:
    return nn.Linear(*sizes)


X, TOKENS, IMAGE = torch.randn(4, 6), torch.randn(4, 5, 6), torch.randn(4, 6, 8, 8)


def test_a_hidden_width_that_is_an_output_too_stays_whole() -> None:
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = m.a(x).relu()
        return m.b(hidden), hidden

    channels = channels_of(Model(forward, a=linear(6, 8), b=linear(8, 3)), X)
    assert reasons(channels) == dict.fromkeys("ab", "it is an output of the graph")


def test_a_hidden_width_that_meets_an_input_stays_whole() -> None:
    model = Model(lambda m, x, y: m.b(m.a(x) * y), a=linear(6, 8), b=linear(8, 3))
    assert reasons(channels_of(model, X, torch.randn(4, 8)))["a"] == "it is an input of the graph"


def test_a_hidden_width_that_nothing_takes_in_stays_whole() -> None:
    model = Model(lambda m, x: m.b(x) + m.a(x).sum(1, keepdim=True), a=linear(6, 8), b=linear(6, 3))
    assert reasons(channels_of(model, X))["a"] == "sum runs over it"
    model = Model(lambda m, x: m.b(x) + m.a(x)[:, :3], a=linear(6, 8), b=linear(6, 3))
    assert reasons(channels_of(model, X))["a"] == "getitem does not keep it"


def test_activations_and_parameters_of_the_group_are_its_members() -> None:
    model = Model(
        lambda m, x: m.b(m.act(m.norm(m.a(x))) * m.scale),
        a=nn.Conv2d(6, 8, 1), b=nn.Conv2d(8, 3, 1), norm=nn.BatchNorm2d(8), act=nn.PReLU(8),
        scale=nn.Parameter(torch.ones(8, 1, 1)),
    )  # fmt: skip
    (group,) = channels_of(model, IMAGE).groups
    assert set(group.members) == {"a", "norm", "act", "scale", "b"}
    assert {module_path(node) for node in group.activations} == {"a", "norm", "act", ""}
    assert (group.units, group.inner, group.width) == (8, 1, 8)


def test_branches_that_are_summed_within_a_group_are_one_group_only_without_a_stream() -> None:
    model = Model(lambda m, x: m.c(m.a(x) * m.b(x)), a=linear(6, 8), b=linear(6, 8), c=linear(8, 3))
    ((name, units, members),) = found(channels_of(model, X))
    assert (name, units, members) == ("a", 8, {"a", "b", "c"})
    model = Model(lambda m, x: m.c(m.a(x) + m.b(x)), a=linear(6, 8), b=linear(6, 8), c=linear(8, 3))
    assert reasons(channels_of(model, X))["a"] == "it is a residual stream (summed in the model)"


def test_pieces_of_a_concatenation_are_groups_of_their_own() -> None:
    model = Model(
        lambda m, x: m.c(m.norm(torch.cat([m.a(x), m.b(x)], 1))),
        a=nn.Conv2d(6, 8, 1), b=nn.Conv2d(6, 4, 3, padding=1), norm=nn.BatchNorm2d(12), c=nn.Conv2d(12, 3, 1),
    )  # fmt: skip
    assert found(channels_of(model, IMAGE)) == [("a", 8, {"a", "norm", "c"}), ("b", 4, {"b", "norm", "c"})]


def test_a_flattened_convolution_has_a_unit_for_each_channel() -> None:
    model = Model(lambda m, x: m.b(m.a(x).flatten(1)), a=nn.Conv2d(6, 8, 1), b=linear(8 * 64, 3))
    channels = channels_of(model, IMAGE)
    assert found(channels) == [("a", 8, {"a", "b"})]
    (segment,) = channels.layouts(channels.groups[0].consumers[0].product.weight)[1]
    assert (segment.outer, segment.units, segment.inner) == (1, 8, 64)


@pytest.mark.parametrize(("groups", "units"), [(1, 8), (2, 4), (4, 2), (8, 8)])
def test_of_a_grouped_convolution_channels_of_every_group_or_whole_groups(groups: int, units: int) -> None:
    model = Model(
        lambda m, x: m.c(m.b(m.a(x))),
        a=nn.Conv2d(6, 8, 1), b=nn.Conv2d(8, 8, 3, groups=groups), c=nn.Conv2d(8, 3, 1),
    )  # fmt: skip
    channels = channels_of(model, IMAGE)
    assert channels.groups[0].units == units
    assert {"a", "b"} <= set(channels.groups[0].members)


def test_a_layer_called_twice_is_in_one_group() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(m.a(x).relu()) + m.b(m.a(-x).relu())

    assert found(channels_of(Model(forward, a=linear(6, 8), b=linear(8, 3)), X)) == [("a", 8, {"a", "b"})]


def test_a_weight_made_anew_in_every_call_is_in_one_group_too() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        first, second = (F.linear(each, m.w / m.w.norm()) for each in (x, -x))
        return m.b(first) * m.c(second)

    model = Model(forward, w=nn.Parameter(torch.randn(8, 6)), b=linear(8, 3), c=linear(8, 3))
    assert found(channels_of(model, X)) == [("w", 8, {"w", "b", "c"})]


TIED: list[tuple[str, Callable[..., Tensor], dict[str, Any]]] = [
    (
        "F.linear, then its transpose",
        lambda m, x: F.linear(F.linear(x, m.w).relu(), m.w.t()),
        {"w": nn.Parameter(torch.randn(8, 6))},
    ),
    ("x @ w, then F.linear", lambda m, x: F.linear((x @ m.w).relu(), m.w), {"w": nn.Parameter(torch.randn(6, 8))}),
    ("a layer, then its transposed weight", lambda m, x: F.linear(m.w(x).relu(), m.w.weight.t()), {"w": linear(6, 8)}),
]


@pytest.mark.parametrize(("forward", "parts"), [case[1:] for case in TIED], ids=[case[0] for case in TIED])
def test_a_weight_that_is_used_in_several_ways_stays_whole(
    forward: Callable[..., Tensor], parts: dict[str, Any]
) -> None:
    channels = channels_of(Model(forward, **parts), X)
    assert not channels.groups
    assert "is multiplied in several ways" in reasons(channels)["w"]


def test_a_dimension_inside_itself_stays_whole() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        square = m.a(x).view(-1, 4, 4)
        return m.b((square + square.transpose(1, 2)).flatten(1))

    channels = channels_of(Model(forward, a=linear(6, 16), b=linear(16, 3)), X)
    assert not channels.groups
    assert reasons(channels)["a"] == "one dimension holds it twice, one inside the other"


def test_a_dimension_in_many_pieces_stays_whole() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(sum(m.a(x).chunk(12, -1)))

    channels = channels_of(Model(forward, a=linear(6, 48), b=linear(4, 3)), X)
    assert reasons(channels)["a"] == "it lies in 12 pieces in memory"


class Block(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(6), nn.Linear(6, 16), nn.Linear(16, 6)
        self.qkv, self.proj = nn.Linear(6, 3 * 8), nn.Linear(8, 6)
        self.reentrant = reentrant

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant is None:
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_checkpointed_blocks_have_the_same_groups(reentrant: bool | None) -> None:
    model = nn.Sequential(nn.Linear(6, 6), Block(reentrant), Block(reentrant), nn.Linear(6, 3))
    channels = channels_of(model, TOKENS)
    expected = [
        (f"{i}.{made}", units, {f"{i}.{made}", f"{i}.{taken}"})
        for i in (1, 2)
        for made, units, taken in (("qkv", 2, "proj"), ("fc1", 16, "fc2"))
    ]
    assert found(channels) == expected
    assert reasons(channels)["1.proj"].startswith("it is a residual stream")


def test_a_hidden_width_that_crosses_the_edge_of_a_checkpoint_is_a_group() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(checkpoint(lambda y: m.a(y).relu(), x, use_reentrant=False))

    assert found(channels_of(Model(forward, a=linear(6, 8), b=linear(8, 3)), X)) == [("a", 8, {"a", "b"})]


def test_groups_on_both_sides_of_a_graph_break_and_none_across() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.c(m.b(m.a(x).relu()))
        torch._dynamo.graph_break()
        return m.e(m.d(x).relu())

    layers = {"a": linear(6, 8), "b": linear(8, 7), "c": linear(7, 6), "d": linear(6, 8), "e": linear(8, 3)}
    channels = channels_of(Model(forward, **layers), X)
    assert found(channels) == [("a", 8, {"a", "b"}), ("b", 7, {"b", "c"}), ("d", 8, {"d", "e"})]
    assert reasons(channels)["c"] == "it is an output of the graph"


def test_what_two_graphs_read_is_in_one_group() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.b(m.norm(m.a(x)))
        torch._dynamo.graph_break()
        return m.d(m.norm(m.c(x)))

    layers = {"a": linear(6, 8), "b": linear(8, 6), "c": linear(6, 8), "d": linear(8, 3), "norm": nn.BatchNorm1d(8)}
    assert found(channels_of(Model(forward, **layers), X)) == [("a", 8, {"a", "b", "c", "d", "norm"})]


def test_what_did_not_run_is_said_so() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        if x.sum().item() > 1e9:
            return m.never(x)
        return m.b(m.a(x).relu())

    channels = channels_of(Model(forward, never=Never(), a=linear(6, 8), b=linear(8, 3)), X)
    assert found(channels) == [("a", 8, {"a", "b"})]
    assert reasons(channels)["never.fc"] == "it did not run with the example inputs"


def test_without_shapes_the_reason_is_what_to_give() -> None:
    channels = channels_of(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    assert not channels.groups
    assert reasons(channels) == dict.fromkeys("02", "shapes are unknown: give example_inputs")


def test_a_model_without_products_has_no_groups() -> None:
    channels = channels_of(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6)), X)
    assert (channels.groups, channels.stopped) == ([], [])


def test_layouts_name_only_the_groups_that_are_kept() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3))
    channels = channels_of(model, X)
    first, second = channels.groups
    weight = first.consumers[0].product.weight
    assert [layout[0].group for layout in channels.layouts(weight)] == [second.name, first.name]
    channels.keep([second])
    assert [layout[0].group for layout in channels.layouts(weight)] == [second.name, ""]
