"""Every layer has the FLOPs that counting in its captured graph gives it, gradient by gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
import transformers as hf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ecograph.capture import capture
from ecograph.capture.graph import MODULE, Graph
from ecograph.capture.inputs import normalize
from ecograph.cost import graph_flops
from ecograph.cost.steps import Op, Step, record_step

#: of a layer: forward, grad_input (and gradients of products without a weight), grad_weight, forward run again
Counts = tuple[int, int, int, int]


def by_graph(model: nn.Module, example: Any) -> dict[str, Counts]:
    inputs = normalize(example)
    assert inputs is not None
    found: dict[str, list[int]] = defaultdict(lambda: [0] * 4)
    for graph in capture(model, inputs).graphs:
        for node, flops in graph_flops(graph).items():
            assert isinstance(graph, Graph)
            each = (flops.forward, flops.grad_input, flops.grad_weight, flops.recomputed)
            path = node.meta.get(MODULE, "")
            found[path] = [a + b for a, b in zip(found[path], each, strict=True)]
    return {path: tuple(counts) for path, counts in found.items() if any(counts)}  # type: ignore[misc]


def _place(op: Op) -> int:
    if op.phase == "backward":
        return 2 if op.grad == "grad_weight" else 1
    return 3 if op.phase == "recomputed" else 0


def by_layer(step: Step) -> dict[str, Counts]:
    found: dict[str, list[int]] = defaultdict(lambda: [0] * 4)
    for op in step.ops:
        if op.flops:
            found[op.layer][_place(op)] += op.flops * op.count
    return {path: tuple(counts) for path, counts in found.items()}  # type: ignore[misc]


class Attending(nn.Module):
    """Self-attention with a packed projection, and attention to something else with three."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(8, 2, batch_first=True)
        self.other = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(x, x, x)[0]
        return self.other(x, x[..., :4], x[..., :4], need_weights=False)[0]


class Shared(nn.Module):
    """A layer that is called twice, under two names, and a weight that is used by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Linear(8, 8)
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)
        self.outer.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(self.again(self.first(x)))).relu()


class Checkpointed(nn.Module):
    """A block of layers that runs again in the backward, and a product outside of any layer that does."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 6), nn.GELU()), nn.Linear(6, 2)
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.reentrant = reentrant

    def inside(self, x: Tensor) -> Tensor:
        return (self.body(x) @ self.weight).tanh()  # running again ends with the last tensor that is kept

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.inside, self.stem(x), use_reentrant=self.reentrant).relu())


class Mixing(nn.Module):
    """Products of activations with one another, of a derived weight, and of a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.key.requires_grad_(False)
        self.mix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return scores.softmax(-1) @ x @ (self.mix * 2).softmax(-1)


x = torch.randn(2, 4, 8)
ids = torch.arange(16).view(2, 8) % 7
images = torch.randn(2, 3, 32, 32)
_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "resnet": (lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]), images),
    "gpt2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=7, n_embd=8, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
        ),
        {"input_ids": ids, "labels": ids},
    ),
    "vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**_SMALL, image_size=32, patch_size=8)), images),
    "attention": (Attending, x),
    "shared": (Shared, x),
    "checkpointed": (lambda: Checkpointed(reentrant=False), x),
    "mixing": (Mixing, x),
}


@pytest.mark.parametrize("name", MODELS)
def test_layers_have_the_flops_of_their_graphs(name: str) -> None:
    build, example = MODELS[name]
    model = build()
    assert by_layer(record_step(model, example)) == by_graph(model, example)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_runs_again_is_told_from_the_backward(reentrant: bool) -> None:
    rows = 2 * 4
    counts = by_layer(record_step(Checkpointed(reentrant=reentrant), x))
    body, product = 2 * rows * 8 * 6, 2 * rows * 6 * 6
    assert counts["body.0"] == (body, body, body, body)
    assert counts[""] == (product, product, product, product)
    assert counts["stem"][3] == counts["head"][3] == 0


def test_the_layer_that_a_gradient_is_kept_for_adds_it_up() -> None:
    """A gradient of a weight that two layers use is a sum: it belongs to the layer of the second part."""
    step = record_step(Shared(), torch.randn(3, 8))
    layers = {op.layer for op in step.ops if op.phase == "backward" and op.written == 4 * 64 and op.kind == "pointwise"}
    assert layers <= {"inner", "outer", "first"}
    assert layers


class Square(torch.autograd.Function):
    """Has a backward of its own, with one product for each gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grads[0] @ weight.t(), x.t() @ grads[0]


class Custom(nn.Module):
    """Two layers that call it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Own(), Own()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Own(nn.Module):
    """Calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(x, self.weight)


def test_a_function_with_a_backward_of_its_own() -> None:
    one = 2 * 4 * 8 * 8
    assert by_layer(record_step(Custom(), torch.randn(4, 8))) == {
        "a": (one, one, one, 0),
        "b": (one, one, one, 0),
    }


def test_nothing_is_left_of_it_where_a_forward_fails() -> None:
    from torch.nn.modules import module as hooks

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.fc(x)
            raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        record_step(Failing(), torch.randn(2, 3))
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
