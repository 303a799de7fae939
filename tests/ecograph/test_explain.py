from __future__ import annotations

import io
import json
from inspect import signature
from typing import Any

import pytest
import torch
from rich.console import Console
from slices import build
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ecograph
from ecograph.cost.flops import Flops
from ecograph.passes import SliceOut, SparseBackward
from ecograph.report_table import human

ALL = {"when": "always", "skip_first": False, "skip_last": False, "min_channels": 1}


class Cnn(nn.Module):
    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(10)
        self.body = nn.Conv2d(10, 20, 3, stride=2, padding=1, groups=groups)
        self.up = nn.ConvTranspose2d(20, 10, 2, stride=2)
        self.head = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.relu(self.up(torch.relu(self.body(x)))).mean((2, 3)))


def vit() -> nn.Module:
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=16, patch_size=4, depth=2, embed_dim=24, num_heads=2,
        num_classes=5,
    )  # fmt: skip


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_embd=24, n_layer=2, n_head=2, vocab_size=31, n_positions=8, use_cache=False, attn_implementation="eager",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


class CrossAttention(nn.Module):
    """The packed projection is used in two parts of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x[:, :3], x[:, :3])[0]


MODELS: dict[str, tuple[Any, Any]] = {
    "CNN": (Cnn, lambda: {"x": torch.randn(2, 3, 8, 8)}),
    "grouped CNN": (lambda: Cnn(groups=5), lambda: {"x": torch.randn(2, 3, 8, 8)}),
    "ViT": (vit, lambda: {"x": torch.randn(2, 3, 16, 16)}),
    "GPT-2": (gpt2, lambda: {"input_ids": torch.randint(0, 31, (2, 8))}),
    "cross-attention": (CrossAttention, lambda: {"x": torch.randn(2, 5, 12)}),
}


def counted(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """FLOPs that torch counts in a training step, with its mistake about grouped convolutions put right."""
    groups = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    shapes: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    hooks = [m.register_forward_hook(lambda m, args, out: shapes.update({m: (args[0], out)})) for m in groups]
    with FlopCounterMode(display=False) as counter:
        output = model(**inputs)
        output = output.logits if hasattr(output, "logits") else output
        output.square().sum().backward()
    for hook in hooks:
        hook.remove()
    total = counter.get_total_flops()
    for module in groups:
        # Per gradient it counts a dense convolution between all channels: groups times too much in one of the two.
        input, output = shapes[module]
        kept = int(module.bias.grad.count_nonzero()) if module.bias is not None else module.out_channels
        right = 2 * output.numel() // module.out_channels * kept * module.weight[0].numel()
        wrong = _counter_backward(input, output, module, kept)
        total += 2 * right - wrong
    return total


def _counter_backward(input: Tensor, output: Tensor, module: nn.Conv2d, kept: int) -> int:
    """What FlopCounterMode makes of the same backward, run on tensors of the same shapes."""
    leaf = torch.zeros_like(input).requires_grad_()
    weight = torch.zeros(kept, *module.weight.shape[1:], requires_grad=True)
    result = nn.functional.conv2d(leaf, weight, None, module.stride, module.padding, module.dilation, module.groups)
    with FlopCounterMode(display=False) as counter:
        result.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("drop", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_that_torch_counts_in_the_real_step(name: str, drop: float) -> None:
    build, make_inputs = MODELS[name]
    model, inputs = build(), make_inputs()
    passes = [SparseBackward(drop or 0.5, schedule="constant", **ALL)]
    ecograph.optimize(model, example_inputs=inputs, passes=passes)
    report = ecograph.explain(model)
    assert all(layer.rewritten_by for layer in report.layers)
    assert report.complete
    # torch's counter does not see the fused attention of the CPU, which is all there is beside the layers of this ViT.
    unseen = report.other.total if name == "ViT" else 0
    if drop == 0:
        plain = ecograph.restore(model)
        assert report.before.total - unseen == counted(plain, inputs)
    else:
        assert report.after.total - unseen == counted(model, inputs)
        assert report.after.total < report.before.total
        assert report.after.forward == report.before.forward


@pytest.mark.parametrize("name", ["CNN", "GPT-2"])
def test_to_dict_is_json_and_its_totals_are_sums(name: str) -> None:
    build, make_inputs = MODELS[name]
    model = ecograph.optimize(build(), example_inputs=make_inputs(), passes=[SparseBackward(0.8, **ALL)])
    report = ecograph.explain(model)
    data = json.loads(json.dumps(report.to_dict()))
    for side in ("flops_before", "flops_after"):
        for kind in ("forward", "grad_input", "grad_weight", "recomputed"):
            total = data["other_flops"][kind] + sum(layer[side][kind] for layer in data["layers"])
            assert data[side][kind] == total
    (options,) = data["passes"]
    saved = sum(data["flops_before"].values()) - sum(data["flops_after"].values())
    assert options["flops_saved_per_step"] == saved == report.saved_by("sparse_backward") > 0
    assert options["layers"] == len(data["layers"])
    assert options["name"] == "sparse_backward" and options["drop"] == 0.8
    assert data["flops_source"] == "counted"
    assert data["model"] == type(model).__name__
    assert data["capture"] == [{"path": "", "method": "dynamo", "note": ""}]
    assert {"name", "type", "output_shape", "rewritten_by", "reason"} <= data["layers"][0].keys()


@pytest.mark.parametrize(
    ("schedule", "plan", "mean_rate", "share"),
    [
        ("constant", None, 0.8, 0.2),
        ("alternate", None, 0.4, 0.6),
        ("alternate", {"epochs": 4, "steps_per_epoch": 5}, 0.4, 0.6),
        ("alternate", {"epochs": 3, "steps_per_epoch": 5}, 0.8 / 3, (1 + 0.2 + 1) / 3),
        ("alternate", {"epochs": 4, "steps_per_epoch": 1, "warmup": 1, "tail": 1}, 0.2, (1 + 1 + 0.2 + 1) / 4),
        ("constant", {"epochs": 4, "steps_per_epoch": 3, "warmup": 1}, 0.6, (1 + 3 * 0.2) / 4),
        ("bar", None, 0.4, 0.6),
        ("linear", {"epochs": 3, "steps_per_epoch": 1}, 0.4, (1 + 0.6 + 0.2) / 3),
    ],
)
def test_after_is_the_average_over_the_schedule(
    schedule: str, plan: dict[str, int] | None, mean_rate: float, share: float
) -> None:
    model = nn.Sequential(nn.Linear(10, 100))
    passes = [SparseBackward(0.8, schedule=schedule, **ALL)]
    ecograph.optimize(model, example_inputs=torch.randn(50, 10), passes=passes)
    if plan:
        ecograph.Scheduler(model, **plan)
    report = ecograph.explain(model)
    flops = 2 * 50 * 10 * 100
    (layer,) = report.layers
    assert layer.before == Flops(flops, 0, flops)
    assert layer.after == Flops(flops, 0, round(share * flops))
    assert report.passes[0]["mean_rate"] == pytest.approx(mean_rate)


def test_grads_and_align_are_in_the_figures() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(10, 100))
    x = torch.randn(50, 10, requires_grad=True)
    flops = 2 * 50 * 10 * 100
    for options, factors in (
        ({"grads": ("input",)}, (0.2, 1)),
        ({"grads": ("weight",)}, (1, 0.2)),
        ({"align": 32}, (0.32, 0.32)),
        ({"select": "random", "unbiased": True}, (0.2, 0.2)),
    ):
        passes = [SparseBackward(0.8, schedule="constant", **ALL, **options)]
        ecograph.optimize(model, example_inputs=x, passes=passes)
        (layer,) = ecograph.explain(model).layers
        assert layer.after == Flops(flops, round(factors[0] * flops), round(factors[1] * flops))


def test_attention_is_counted_beside_the_layers() -> None:
    model, inputs = gpt2(), MODELS["GPT-2"][1]()
    report = ecograph.explain(ecograph.optimize(model, example_inputs=inputs, passes=[SparseBackward(**ALL)]))
    # Two products per layer, of batch 2, heads 2, 8 by 8 positions, width 12 each.
    forward = 2 * 2 * (2 * 2 * 2 * 8 * 8 * 12)
    assert report.other.forward == forward
    assert report.other.backward == 2 * forward
    assert report.before.total > report.other.total


def test_unknown_shapes_are_said_and_never_counted_as_nothing() -> None:
    model = ecograph.optimize(Cnn(), passes=[SparseBackward(**{**ALL, "when": "pays"})])
    report = ecograph.explain(model)
    assert not report.complete
    assert report.layers[0].before is None
    data = report.to_dict()
    assert data["flops_source"].startswith("incomplete")
    assert data["layers"][0]["flops_before"] is None
    assert "give optimize(..., example_inputs=...)" in str(report)
    assert "decided at the first training batch" in str(report).replace("\n", " ") or "first training" in str(report)


def test_explaining_a_plain_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="Linear is not optimized: call ecograph.optimize"):
        ecograph.explain(nn.Linear(2, 2))


def test_parts_and_wrappers_are_explained() -> None:
    model = nn.Sequential(Cnn(), nn.Flatten())
    ecograph.optimize(model[0], example_inputs=torch.randn(2, 3, 8, 8), passes=[SparseBackward(**ALL)])
    assert len(ecograph.explain(model).layers) == 4


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("inputs", [True, False])
def test_it_prints_at_any_width(width: int, inputs: bool) -> None:
    model = ecograph.optimize(
        Cnn(), example_inputs=torch.randn(2, 3, 8, 8) if inputs else None, passes=[SparseBackward(**ALL)]
    )
    text = io.StringIO()
    Console(file=text, width=width).print(ecograph.explain(model))
    assert all(len(line) <= width for line in text.getvalue().splitlines())
    assert "stem" in text.getvalue() or width < 80


def test_as_text_it_names_every_layer_and_its_fate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    model = ecograph.optimize(
        Cnn(), example_inputs=torch.randn(2, 3, 8, 8), passes=[SparseBackward(0.8, **ALL)], skip=["up"]
    )
    text = str(ecograph.explain(model))
    assert repr(ecograph.explain(model)) == text
    for word in ("stem", "body", "up", "head", "named in skip", "sparse_backward: 3 of 4 layers", "mean rate 0.4"):
        assert word in text


@pytest.mark.parametrize(
    ("flops", "expected"),
    [
        (None, "?"), (0, "0"), (999, "999"), (1000, "1 k"), (1234, "1.23 k"), (999_499, "999 k"), (999_999, "1 M"),
        (1_420_000_000, "1.42 G"), (5 * 10**18, "5e+03 P"), (-1500, "-1.5 k"),
    ],
)  # fmt: skip
def test_human(flops: int | None, expected: str) -> None:
    assert human(flops) == expected


# Channel groups


def sliced(name: str, rate: float = 0.5, others: Any = (), **options: Any) -> tuple[nn.Module, Tensor]:
    model, x = build(name)
    passes = [SliceOut(rate, **{"min_width": 8, "when": "always", **options}), *others]
    return ecograph.optimize(model, example_inputs=x, passes=passes), x


@pytest.mark.parametrize("rate", [0.25, 0.5])
@pytest.mark.parametrize("name", ["MLP", "Wide ResNet", "routed", "ViT", "GPT", "GPT-2", "BERT"])
def test_flops_of_a_sliced_step_are_those_that_torch_counts(name: str, rate: float) -> None:
    model, x = build(name)
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # which torch counts, other than the fused attention of the CPU
    inputs = {"input_ids" if hasattr(model, "config") else next(iter(signature(model.forward).parameters)): x}
    unseen = name in ("ViT", "GPT")
    dense = counted(model, inputs)
    ecograph.optimize(model, example_inputs=inputs, passes=[SliceOut(rate, min_width=8, when="always")])
    report = ecograph.explain(model)
    assert report.complete
    assert report.before.total - unseen * report.other.total == dense
    assert report.after.total - unseen * report.other_after.total == counted(model, inputs)
    assert report.after.total < dense
    assert report.saved_by("sliceout") == report.before.total - report.after.total


def test_groups_say_what_shrinks_together() -> None:
    model, _ = sliced("GPT")
    report = ecograph.explain(model)
    groups = {group.name: group for group in report.groups if group.members}
    assert list(groups) == ["blocks.0.qkv", "blocks.0.fc1", "blocks.1.qkv", "blocks.1.fc1"]
    heads, hidden = groups["blocks.0.qkv"], groups["blocks.0.fc1"]
    assert heads.members == ("blocks.0.qkv", "blocks.0.proj")
    assert (heads.units, heads.width, heads.slice_width, heads.starts) == (4, 32, 16, 3)
    assert (hidden.units, hidden.width, hidden.slice_width, hidden.starts) == (128, 128, 64, 3)
    layers = {layer.name: layer for layer in report.layers}
    for group in groups.values():
        assert group.sliced_by == "sliceout"
        assert group.reason == ""
        assert group.before == sum((layers[name].before for name in group.members), Flops())
        assert group.after.total == group.before.total // 2
        assert group.bytes_after == group.bytes_before // 2
    assert hidden.bytes_before == 2 * 3 * 10 * 128 * 4, "what fc1 and gelu give, in float32"


def test_members_of_a_convolutional_group_are_its_norms_too() -> None:
    model, _ = sliced("inverted")
    groups = [group for group in ecograph.explain(model).groups if group.sliced_by]
    expansion = next(group for group in groups if group.name == "blocks.0.block.0.0")
    members = [name.removeprefix("blocks.0.block.") for name in expansion.members]
    assert members == ["0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0"]
    assert (expansion.width, expansion.slice_width) == (48, 24)


def test_a_layer_that_is_not_sliced_says_why() -> None:
    model, _ = sliced("Wide ResNet", min_width=32, filter_fn=lambda module, name: not name.startswith("3."))
    reasons = {layer.name: layer.reason for layer in ecograph.explain(model).layers if not layer.rewritten_by}
    why = "in no group that is sliced: "
    assert reasons == {
        "0": f"{why}16 wide, less than min_width=32",
        "1.shortcut": f"{why}16 wide, less than min_width=32",
        "3.conv1": f"{why}filter_fn",
        "3.shortcut": f"{why}it is a residual stream (summed in 3)",
        "3.conv2": f"{why}filter_fn",
        "8": f"{why}it is an output of the graph",
    }
    groups = {group.name: group.reason for group in ecograph.explain(model).groups}
    assert groups["3.conv2"] == "it is a residual stream (summed in 3)"
    assert groups["1.conv1"] == ""


def test_groups_as_dict_are_json() -> None:
    model, _ = sliced("Wide ResNet", others=[SparseBackward(0.5, **ALL)])
    report = ecograph.explain(model)
    data = json.loads(json.dumps(report.to_dict()))
    group = next(each for each in data["groups"] if each["name"] == "1.conv1")
    assert group["members"] == ["1.conv1", "1.norm2", "1.conv2"]
    assert (group["width"], group["slice_width"], group["sliced_by"], group["reason"]) == (32, 16, "sliceout", None)
    assert group["before"].keys() == data["flops_before"].keys()
    assert [each["name"] for each in data["passes"]] == ["sliceout", "sparse_backward"]
    saved = sum(data["flops_before"].values()) - sum(data["flops_after"].values())
    assert sum(each["flops_saved_per_step"] for each in data["passes"]) == saved
    stopped = next(each for each in data["groups"] if not each["members"])
    assert stopped["reason"]
    assert stopped["slice_width"] is None


def test_flops_after_follow_the_schedule() -> None:
    model, x = sliced("MLP", schedule="alternate")
    report = ecograph.explain(model)
    half = ecograph.explain(sliced("MLP")[0])
    assert report.after.total == (report.before.total + half.after.total) // 2
    ecograph.Scheduler(model, epochs=4, steps_per_epoch=1, tail=1)
    report = ecograph.explain(model)
    assert report.passes[0]["mean_rate"] == 0.125
    assert report.after.total == (3 * report.before.total + half.after.total) // 4
    group = report.groups[0]
    assert group.bytes_after == round(group.bytes_before * (3 + 0.5) / 4)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_groups_print_at_any_width(width: int) -> None:
    model, _ = sliced("BERT", others=[SparseBackward(0.5, **ALL)])
    text = io.StringIO()
    Console(file=text, width=width).print(ecograph.explain(model))
    lines = text.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    if width >= 80:
        for word in ("Channel groups", "32 → 16", "sliceout", "in no group", "saves"):
            assert word in text.getvalue(), word
    if width == 80:
        assert any("self.query" in line and "32 → 16" in line for line in lines), "there is room for names"
    if width == 140:
        assert any("sliceout + sparse_backward" in line for line in lines)
        assert any("self.query, self.key," in line for line in lines)
