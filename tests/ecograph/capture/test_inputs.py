"""Example inputs in every form, and what is said about those that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ecograph.capture import capture
from ecograph.capture.graph import shape


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 5)
        self.right = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return self.left(x) + scale * self.right(y)


X, Y = torch.randn(2, 3), torch.randn(2, 4)


@pytest.mark.parametrize(
    "inputs",
    [
        (X, Y),
        [X, Y],
        {"x": X, "y": Y},
        {"x": X, "y": Y, "scale": 2.0},
        ((X,), {"y": Y}),
        ((X, Y), {}),
        ((), {"y": Y, "x": X}),
    ],
    ids=["tuple", "list", "dict", "dict with a number", "pair", "pair without keywords", "keywords only"],
)
def test_forms_of_inputs(inputs: Any) -> None:
    captured = capture(TwoInputs(), inputs)
    assert [part.method for part in captured.parts] == ["dynamo"]
    outputs = [shape(n) for n in captured.graphs[0].nodes if n.target is torch.nn.functional.linear]
    assert outputs == [(2, 5), (2, 5)]


def test_a_tensor_alone_is_the_only_positional_input() -> None:
    assert capture(nn.Linear(3, 5), X).shapes


def test_a_batch_of_nested_containers() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 5)

        def forward(self, batch: dict[str, list[torch.Tensor]]) -> torch.Tensor:
            return sum((self.fc(x) for x in batch["views"]), torch.zeros(()))

    captured = capture(Nested(), ({"views": [X, X]},))
    assert sum(n.target is torch.nn.functional.linear for n in captured.graphs[0].nodes) == 2


def test_integer_inputs() -> None:
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 2))
    captured = capture(model, torch.randint(0, 10, (2, 7)))
    assert captured.parts[0].method == "dynamo"
    assert captured.shapes


@pytest.mark.parametrize("inputs", [3, "x", object(), 1.5, {1, 2}], ids=lambda each: type(each).__name__)
def test_what_is_no_input_at_all(inputs: Any) -> None:
    with pytest.raises(ValueError, match="give a tensor, a tuple of positional inputs"):
        capture(TwoInputs(), inputs)


@pytest.mark.parametrize("inputs", [(), {}, (1, 2), {"x": 1}, ((), {})], ids=repr)
def test_inputs_without_a_tensor(inputs: Any) -> None:
    with pytest.raises(ValueError, match="holds no tensor"):
        capture(TwoInputs(), inputs)


def test_a_wrong_shape_is_named_with_the_fix() -> None:
    with pytest.raises(ValueError) as info:
        capture(TwoInputs(), (torch.randn(2, 3), torch.randn(2, 7)))
    message = str(info.value)
    assert "TwoInputs" in message
    assert "(2, 3)" in message
    assert "(2, 7)" in message
    assert "2x7 and 4x5" in message
    assert "Give inputs that model(*args, **kwargs) accepts" in message


def test_a_missing_keyword_is_named() -> None:
    with pytest.raises(ValueError, match=r"'x': \(2, 3\).*missing 1 required positional argument: 'y'"):
        capture(TwoInputs(), {"x": X})


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(ValueError, match="unexpected keyword argument 'z'"):
        capture(TwoInputs(), {"x": X, "y": Y, "z": X})


def test_floats_for_an_embedding() -> None:
    with pytest.raises(ValueError, match="do not fit Sequential.*indices"):
        capture(nn.Sequential(nn.Embedding(10, 6)), torch.randn(2, 7))


def test_a_single_value_per_channel_cannot_be_normalized_in_training() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        capture(model, torch.randn(1, 3))


def test_a_wrong_shape_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 5)
    with pytest.raises(ValueError, match=r"do not fit Linear.*\(2, 4\)"):
        capture(model, torch.randn(2, 4))


def test_a_model_that_fails_is_not_blamed_on_anything_else() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("left for the reader")

    with pytest.raises(ValueError, match="NotImplementedError: left for the reader"):
        capture(Failing(), X)


@pytest.mark.parametrize("inputs", [X, None], ids=["inputs", "no inputs"])
def test_a_model_without_parameters(inputs: Any) -> None:
    captured = capture(nn.ReLU(), inputs)
    assert len(captured.graphs) == 1


@pytest.mark.parametrize("inputs", [torch.zeros(0, 3), torch.zeros(2, 0, 3)], ids=["no rows", "no tokens"])
def test_empty_batches(inputs: torch.Tensor) -> None:
    captured = capture(nn.Linear(3, 5), inputs)
    output = next(n for n in captured.graphs[0].nodes if n.target is torch.nn.functional.linear)
    assert shape(output) == (*inputs.shape[:-1], 5)


def test_inputs_are_moved_to_the_models_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    captured = capture(model, torch.randn(2, 3, 8, 8))
    assert captured.parts[0].method == "dynamo"
    conv = next(n for n in captured.graphs[0].nodes if n.target is torch.conv2d)
    assert shape(conv) == (2, 4, 6, 6)
