"""A step is recorded whole, whatever the model, and nothing of it is left on the model."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from zoo.checks import total_flops
from zoo.counting import reference

import ecograph
from ecograph.capture import capture
from ecograph.capture.inputs import normalize
from ecograph.cost.steps import Step, record_step

x = torch.randn(2, 3, 8, 8)


def flops(step: Step) -> tuple[int, int]:
    forward = sum(op.flops * op.count for op in step.ops if op.phase == "forward")
    return forward, step.flops - forward


def counted(model: nn.Module, example: Any, *, real: bool = True) -> tuple[int, int]:
    inputs = normalize(example)
    assert inputs is not None
    found = reference(model, inputs, real=real)
    return found.forward, found.backward


# -- FLOPs of the real step --------------------------------------------------------------------------------------------


class Grouped(nn.Module):
    """Convolutions of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.wide = nn.Conv2d(8, 16, 3, groups=4, stride=2)
        self.deep = nn.Conv2d(16, 16, 3, groups=16, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2, groups=2)
        self.flat = nn.Conv1d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.up(self.deep(self.wide(self.stem(x)))).flatten(2))


class Recurrent(nn.Module):
    """LSTM, GRU and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True)
        self.gru, self.cell = nn.GRU(12, 5), nn.LSTMCell(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(self.gru(self.lstm(x.flatten(1, 2))[0])[0][:, 0])[0]


class Mapped(nn.Module):
    """Attention in one kernel and in two products, einsum, and a product of vectors."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.scaled_dot_product_attention(x, x, x)
        x = torch.nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
        return torch.einsum("bhij,bhkj->bik", x, x) @ x[0, 0, 0]


@pytest.mark.parametrize("build", [Grouped, Recurrent])
def test_flops_of_a_real_step(build: Callable[[], nn.Module]) -> None:
    model = build()
    assert flops(record_step(model, x)) == counted(model, x)


def test_flops_of_products_without_weights() -> None:
    given = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert flops(record_step(Mapped(), given)) == counted(Mapped(), given)


# -- optimized models --------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Three convolutions, norms and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


PASSES: dict[str, Callable[[], Any]] = {
    "sparse_backward": lambda: ecograph.passes.SparseBackward(
        drop=0.5, schedule="constant", when="always", min_channels=1
    ),
    "sliceout": lambda: ecograph.passes.SliceOut(rate=0.5, min_width=1, schedule="constant", when="always"),
}


@pytest.mark.parametrize("name", PASSES)
def test_an_optimized_step_has_the_flops_that_explain_names(name: str) -> None:
    plain = flops(record_step(Net(), x))
    model = ecograph.optimize(Net(), passes=[PASSES[name]()], example_inputs=x)
    report = ecograph.explain(model)
    assert report.after.total < report.before.total
    assert flops(record_step(model, x)) == (report.after.forward, report.after.backward)
    assert flops(record_step(model, x, rates={name: 0.0})) == plain == (report.before.forward, report.before.backward)


def test_the_schedule_of_the_model_is_as_before() -> None:
    model = ecograph.optimize(
        Net(), passes=[ecograph.passes.SparseBackward(drop=0.5, when="always", min_channels=1)], example_inputs=x
    )
    (rate,) = model._ecograph.rates
    before = dict(vars(rate))
    record_step(model, x, rates={"sparse_backward": 0.25})
    assert vars(rate) == before


def test_rates_of_passes_that_are_not_there() -> None:
    model = ecograph.optimize(Net(), passes=[PASSES["sliceout"]()], example_inputs=x)
    with pytest.raises(ValueError, match=r"rates\['sparse_backward'\]: no pass .* there are sliceout"):
        record_step(model, x, rates={"sparse_backward": 0.5})
    with pytest.raises(ValueError, match="there are none"):
        record_step(Net(), x, rates={"sliceout": 0.5})


# -- what can be recorded ----------------------------------------------------------------------------------------------


def llama(layers: int, width: int = 8192) -> nn.Module:
    config = hf.LlamaConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=7 * width // 2,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    with torch.device("meta"):
        return hf.LlamaForCausalLM(config)


def test_models_larger_than_memory() -> None:
    """Layers as wide as those of a model of 70 billion parameters, counted by the rule of six FLOPs per weight."""
    tokens = torch.zeros(1, 256, dtype=torch.int64, device="meta")
    steps = [
        record_step(llama(layers), {"input_ids": tokens, "labels": tokens}, optimizer=torch.optim.AdamW)
        for layers in (1, 2, 3)
    ]
    layer = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    assert steps[1].parameter_bytes - steps[0].parameter_bytes == 4 * (layer + 2 * 8192)
    attention = (2 + 5) * 2 * 256 * 256 * 8192
    assert steps[1].flops - steps[0].flops == 6 * layer * 256 + attention
    assert steps[0].flops == 6 * (layer + 8192 * 128256) * 256 + attention
    assert math.isclose(steps[0].state_bytes, 2 * steps[0].parameter_bytes, rel_tol=1e-3)
    first, second, third = (len(step.ops) for step in steps)
    assert third - second == second - first < 300, "as many operations for each layer"


def test_the_meta_device_counts_as_the_cpu() -> None:
    with torch.device("meta"):
        model = Net()
    assert record_step(model, torch.randn(2, 3, 8, 8)).ops == record_step(Net(), x).ops
    assert all(parameter.is_meta for parameter in model.parameters())


class Dependent(nn.Module):
    """Branches on values."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8, device=device)
        self.register_buffer("seen", torch.zeros((), device=device))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        self.seen.add_(1)
        random.random()
        return x if x.sum() > 1e9 else self.fc(x)


def test_a_model_that_depends_on_data_runs_on_the_example() -> None:
    model = Dependent()
    given = torch.randn(4, 8, requires_grad=True)
    step = record_step(model, given, optimizer=torch.optim.AdamW)
    assert "ran on the example inputs" in step.note
    assert flops(step) == (2 * 2 * 4 * 64, 2 * 2 * 2 * 4 * 64)
    assert given.grad is None
    assert model.seen == 0
    assert record_step(Net(), x).note == ""


def test_a_model_that_depends_on_data_has_none_on_meta() -> None:
    with pytest.raises(ValueError, match="depends on data .* on the CPU"):
        record_step(Dependent("meta"), torch.randn(4, 8))


def test_what_the_model_raises_comes_through() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        record_step(nn.Linear(8, 4), torch.randn(2, 7))


def test_no_loss_can_be_made_of_integers() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x).argmax(-1)

    with pytest.raises(ValueError, match="no tensor to train on: give loss"):
        record_step(Classes(), torch.randn(2, 8))


def test_without_a_parameter_to_train_there_is_a_forward_alone() -> None:
    step = record_step(nn.Linear(8, 4).requires_grad_(False), torch.randn(2, 8), optimizer=torch.optim.SGD)
    assert {op.phase for op in step.ops} == {"forward"}
    assert step.flops == 2 * 2 * 8 * 4


def test_frozen_layers_have_no_grad_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].requires_grad_(False)
    grads = {(op.layer, op.grad) for op in record_step(model, torch.randn(2, 8)).ops if op.grad}
    assert grads == {("0", "grad_weight"), ("1", "grad_input")}


def test_the_loss_is_what_is_asked_for() -> None:
    model = nn.Linear(8, 4)
    step = record_step(
        model, torch.randn(2, 8), loss=lambda out: nn.functional.cross_entropy(out, torch.tensor([1, 2]))
    )
    assert {op.name for op in step.ops if op.kind == "loss"} == {"aten.nll_loss_forward", "aten.nll_loss_backward"}


def test_a_step_in_mixed_precision() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    step = record_step(model, torch.randn(2, 8), amp="bf16", optimizer=torch.optim.SGD)
    assert {op.dtype for op in step.ops if op.kind == "matmul"} == {"bfloat16"}
    assert {op.dtype for op in step.ops if op.phase == "optimizer"} == {"float32"}
    assert {op.grad for op in step.ops if op.phase == "backward" and op.kind == "matmul"} == {
        "grad_input",
        "grad_weight",
    }
    assert step.flops == record_step(model, torch.randn(2, 8)).flops
    with pytest.raises(ValueError, match="amp='half': give bf16, fp16 or None"):
        record_step(model, torch.randn(2, 8), amp="half")


@pytest.mark.parametrize(
    "call",
    [
        lambda model, example: torch.inference_mode()(record_step)(model, example),
        lambda model, example: torch.no_grad()(record_step)(model, example),
        lambda model, example: record_step(model.eval(), example),
        lambda model, example: record_step(model, {"input": example}),
        lambda model, example: record_step(torch.compile(model, backend="eager"), example),
        lambda model, example: record_step(nn.Sequential(model), example),
    ],
    ids=["inference mode", "no grad", "eval", "keywords", "compiled", "nested"],
)
def test_it_is_the_same_step(call: Callable[[nn.Module, Tensor], Step]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 3))
    expected, found = record_step(model, x), call(model, x)
    assert [(op.name, op.phase, op.flops, op.bytes) for op in found.ops] == [
        (op.name, op.phase, op.flops, op.bytes) for op in expected.ops
    ]
    assert not found.note


def test_a_model_and_inputs_of_inference_mode() -> None:
    with torch.inference_mode():
        model, given = Dependent(), torch.randn(4, 8)
        assert flops(record_step(model, given))[1] > 0


def test_an_operation_of_higher_order_is_listed() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(torch.tensor(True), lambda x: self.fc(x), lambda x: x * 1, (x,))

    step = record_step(Branching(), torch.randn(2, 8))
    assert step.uncounted
    assert all(name.startswith("higher_order.") for name in step.uncounted)


def test_a_custom_operation_without_a_fake_kernel() -> None:
    @torch.library.custom_op("ecograph_test::halved", mutates_args=())
    def halved(x: Tensor) -> Tensor:
        return x / 2

    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.ops.ecograph_test.halved(x))

    step = record_step(Halving(), torch.randn(2, 8))
    assert step.uncounted == {"ecograph_test.halved": 1}
    assert "ran on the example inputs" in step.note
    assert flops(step) == (2 * 2 * 64, 2 * 2 * 64)


# -- no trace ----------------------------------------------------------------------------------------------------------


class Busy(nn.Module):
    """Changes whatever a forward can change about its own module."""

    def __init__(self, *, dependent: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.calls: list[int] = []
        self.dependent = dependent

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        self.seen.add_(1)
        random.random()
        np.random.rand()
        x = self.drop(self.norm(self.conv(x)))
        return x if not self.dependent or x.sum() > 0 else x * 2


@pytest.mark.parametrize("dependent", [False, True])
def test_model_inputs_and_random_states_are_as_before(dependent: bool) -> None:
    model, given = Busy(dependent=dependent), x.clone()
    model.norm.eval()  # a mixture
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    hooked: list[int] = []
    model.conv.register_forward_hook(lambda *_: hooked.append(1))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    training = [module.training for module in model.modules()]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    step = record_step(model, given, optimizer=torch.optim.AdamW)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == before
    assert bool(step.note) == dependent
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == tensors
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.norm.weight.grad is None
    assert [module.training for module in model.modules()] == training
    assert model.calls == hooked == []
    assert torch.equal(given, x)


def test_a_gradient_from_before_does_not_count() -> None:
    model = Net()
    expected = record_step(model, x)
    model(x).sum().backward()
    assert record_step(model, x) == expected


def test_tied_weights_are_tied_in_the_step() -> None:
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10, bias=False))
    model[1].weight = model[0].weight
    step = record_step(model, torch.arange(4))
    assert step.parameter_bytes == 4 * 80
    assert sum(op.kind == "pointwise" and op.written == 320 for op in step.ops) == 1, "two gradients are added up"


COPIES: list[weakref.ref[nn.Module]] = []


class Noted(nn.Linear):
    """Leaves a reference to itself where nobody copies it."""

    def forward(self, x: Tensor) -> Tensor:
        COPIES.append(weakref.ref(self))
        return super().forward(x)


def test_nothing_of_a_step_outlives_it() -> None:
    model = Noted(8, 4)
    step = record_step(model, torch.randn(2, 8), optimizer=torch.optim.AdamW)
    gc.collect()
    assert [copy() for copy in COPIES] == [None]
    assert step.ops
    COPIES.clear()


def test_flops_agree_with_the_captured_graphs() -> None:
    model = Net()
    inputs = normalize(x)
    assert inputs is not None
    ours = total_flops(capture(model, inputs))
    assert flops(record_step(model, x)) == (ours.forward, ours.backward)
