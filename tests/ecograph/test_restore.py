from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from slices import build, step
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import ecograph
from ecograph.passes import SliceOut, SparseBackward
from ecograph.record import records

ALL = {"schedule": "constant", "when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}
PASS = SparseBackward(0.5, **ALL)


def snapshot(model: nn.Module) -> list[tuple[Any, ...]]:
    """Everything that restore must bring back: types, attributes, identities, hooks; and the values."""
    found: list[tuple[Any, ...]] = []
    for name, module in model.named_modules():
        own = {key: id(value) for key, value in module.__dict__.items() if key != "training"}
        inner = {key: list(value) for key, value in module.__dict__.items() if isinstance(value, dict)}
        found.append((name, type(module), own, inner, module.training))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found.append((name, id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, tensor.stride()))
    return found


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.up(self.norm(self.conv(x)).relu()).flatten(2).transpose(1, 2)
        return self.attend(tokens, tokens, tokens)[0] @ self.weight


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=31, n_positions=8, use_cache=False))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=31,
            max_position_embeddings=8,
        )
    )  # fmt: skip


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=5, **options)


def resnet_v2() -> nn.Module:
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(layers=[1, 1], channels=(128, 256), stem_chs=32, num_classes=5, conv_layer=StdConv2d)


def images(size: int = 32) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 3, size, size)


def tokens() -> dict[str, Tensor]:
    ids = torch.randint(0, 31, (2, 8))
    return {"input_ids": ids, "labels": ids}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "Residual": (Residual, lambda: torch.randn(2, 4, 5, 5)),
    "one layer": (lambda: nn.Linear(4, 6), lambda: torch.randn(3, 4)),
    "GPT-2": (gpt2, tokens),
    "BERT": (bert, tokens),
    "ResNetV2 with StdConv2d": (resnet_v2, images()),
    "ViT": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2),
        images(),
    ),
    "EfficientNet with Conv2dSame": (lambda: timm_model("tf_mobilenetv3_small_minimal_100"), images()),
}
each_model = pytest.mark.parametrize("name", MODELS)


def call(model: nn.Module, inputs: Any) -> Tensor:
    output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return output.logits if hasattr(output, "logits") else output


def gradients(model: nn.Module, inputs: Any) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(0)
    call(model, inputs).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("with_inputs", [True, False], ids=["inputs", "no inputs"])
@each_model
def test_restored_is_the_model_that_was(name: str, with_inputs: bool) -> None:
    build, make_inputs = MODELS[name]
    model, inputs = build(), make_inputs()
    reference = copy.deepcopy(model)
    before, cls = snapshot(model), type(model)
    result = ecograph.optimize(model, example_inputs=inputs if with_inputs else None, passes=[PASS])
    assert result is model
    assert isinstance(model, cls)
    assert type(model) is cls or name == "one layer"
    rewritten = [layer for layer in ecograph.explain(model).layers if layer.rewritten_by]
    assert len(rewritten) == len(ecograph.explain(model).layers) - sum(
        "depthwise" in layer.reason for layer in ecograph.explain(model).layers
    )
    assert snapshot(model) != before
    assert list(model.state_dict()) == list(reference.state_dict())
    assert ecograph.restore(model) is model
    assert snapshot(model) == before
    found, expected = gradients(model, inputs), gradients(reference, inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@each_model
def test_sparse_gradients_of_real_models_are_those_of_their_own_forward(name: str) -> None:
    """Keeping all but rewritten, outputs stay bit for bit; sparse, every gradient has its shape and is finite."""
    build, make_inputs = MODELS[name]
    model, inputs = build(), make_inputs()
    reference = copy.deepcopy(model)
    ecograph.optimize(model, example_inputs=inputs, passes=[PASS])
    for each in (model, reference):
        torch.manual_seed(3)
        each.train()
        each.output = call(each, inputs).detach()
    assert torch.equal(model.output, reference.output)
    found, expected = gradients(model, inputs), gradients(reference, inputs)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].shape == value.shape
        assert found[key].isfinite().all()
    rewritten = {layer.name for layer in ecograph.explain(model).layers if layer.rewritten_by}
    keys = {"bias" if layer == "weight" else f"{layer}.bias" for layer in rewritten}
    biases = [found[key] for key in keys if key in found]
    assert biases
    assert all(int(bias.eq(0).sum()) >= bias.numel() // 2 for bias in biases), "half of the channels are dropped"


def test_generate_and_save_pretrained_stay(tmp_path: Any) -> None:
    from transformers import GPT2LMHeadModel

    model = ecograph.optimize(gpt2(), passes=[PASS])
    assert isinstance(model, GPT2LMHeadModel)
    generated = model.eval().generate(torch.tensor([[1, 2]]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    plain = ecograph.restore(copy.deepcopy(model))
    assert torch.equal(
        generated, plain.generate(torch.tensor([[1, 2]]), max_new_tokens=3, do_sample=False, pad_token_id=0)
    )
    model.save_pretrained(tmp_path)
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_restoring_a_plain_model_says_so_and_does_nothing() -> None:
    model = Residual()
    before = snapshot(model)
    with pytest.warns(ecograph.NoEffectWarning, match="Residual is not optimized: nothing to restore") as caught:
        assert ecograph.restore(model) is model
    assert caught[0].filename == __file__
    assert snapshot(model) == before


def test_training_continues_over_restore() -> None:
    model = ecograph.optimize(Residual(), passes=[PASS])
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(2, 4, 5, 5)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    ecograph.restore(model)
    before = [p.clone() for p in model.parameters()]
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    assert all((a != b).any() for a, b in zip(before, model.parameters(), strict=True))


def test_a_part_is_restored_within_the_whole() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))
    ecograph.optimize(model[0], passes=[PASS])
    assert records(model)
    ecograph.restore(model)
    assert not records(model)
    assert type(model[0]) is nn.Linear


def test_a_layer_the_user_replaced_since_is_left_alone() -> None:
    model = ecograph.optimize(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)), passes=[PASS])
    mine = nn.Conv1d(1, 1, 1)
    model[1] = mine
    del model[2]
    ecograph.restore(model)
    assert [type(m) for m in model] == [nn.Linear, nn.Conv1d]
    assert model[1] is mine


def test_parametrized_after_optimize() -> None:
    model = ecograph.optimize(nn.Sequential(nn.Linear(6, 8)), passes=[PASS])
    parametrizations.weight_norm(model[0])
    x = torch.randn(3, 6)
    before = model(x).detach()
    model(x).square().sum().backward()
    assert model[0].bias.grad.count_nonzero() == 4
    ecograph.restore(model)
    assert parametrize.is_parametrized(model[0])
    assert isinstance(model[0], nn.Linear)
    assert "Sparse" not in str(type(model[0]).__mro__)
    assert torch.equal(model(x), before)
    model.zero_grad()
    model(x).square().sum().backward()
    assert model[0].bias.grad.count_nonzero() == 8
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is nn.Linear
    torch.testing.assert_close(model(x), before)


def test_parametrization_removed_after_optimize() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)))
    ecograph.optimize(model, passes=[PASS])
    parametrize.remove_parametrizations(model[0], "weight")
    x = torch.randn(3, 6)
    model(x).square().sum().backward()
    assert model[0].weight.grad.shape == (8, 6)
    assert model[0].bias.grad.count_nonzero() == 4, "still sparse"
    ecograph.restore(model)
    assert type(model[0]) is nn.Linear
    assert "forward" not in model[0].__dict__


def test_a_forward_of_the_instances_own_comes_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = Net()
    plain = model.forward
    model.forward = lambda x: 2 * plain(x)
    own = model.forward
    x = torch.randn(3, 6)
    expected = model(x).detach()
    ecograph.optimize(model, example_inputs=x, passes=[PASS])
    assert torch.equal(model(x), expected)
    model(x).square().sum().backward()
    assert model.weight.grad.abs().sum(0).count_nonzero() == 2
    ecograph.restore(model)
    assert model.forward is own


def test_restore_reaches_through_a_wrapper() -> None:
    inner = ecograph.optimize(Residual(), passes=[PASS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = torch.compile(inner, backend="eager")
    ecograph.restore(wrapped)
    assert not records(inner)
    assert type(inner.conv) is nn.Conv2d


@pytest.mark.parametrize("update", ["autograd", "slice"])
@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "GPT", "routed", "inverted", "GPT-2", "BERT"])
def test_a_sliced_model_is_restored_to_the_model_that_was(name: str, update: str) -> None:
    (model, x), (reference, _) = build(name), build(name)
    before, original = snapshot(model), type(model)
    passes = [SliceOut(0.5, min_width=8, update=update, when="always"), PASS]
    ecograph.optimize(model, example_inputs=x, passes=passes)
    assert type(model) is original
    assert snapshot(model) != before
    assert list(model.state_dict()) == list(reference.state_dict())
    assert any(group.sliced_by for group in ecograph.explain(model).groups)
    ecograph.restore(model)
    assert snapshot(model) == before
    found, expected = step(model, x), step(reference, x)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_sliced_model_restored_in_the_middle_of_training_goes_on_in_full() -> None:
    (model, x), (reference, _) = build("GPT"), build("GPT")
    ecograph.optimize(model, example_inputs=x, passes=[SliceOut(0.5, min_width=8, update="slice", when="always")])
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        step(model, x)
        optimizer.step()
    ecograph.restore(model)
    reference.load_state_dict(model.state_dict())
    theirs = torch.optim.AdamW(reference.parameters())
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        found, expected = step(model, x), step(reference, x)
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        optimizer.step()
        theirs.step()


def test_parametrized_after_slicing() -> None:
    model, x = build("MLP")
    ecograph.optimize(model, example_inputs=x, passes=[SliceOut(0.5, when="always")])
    parametrizations.weight_norm(model.up)
    model(x).square().sum().backward()
    assert model.up.bias.grad.count_nonzero() == 32
    assert model.up.parametrizations.weight.original1.grad.any(1).sum() == 32
    ecograph.restore(model)
    assert "Sliced" not in str(type(model.up).__mro__)
    model.zero_grad()
    model(x).square().sum().backward()
    assert model.up.bias.grad.count_nonzero() == 64
