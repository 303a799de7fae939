from collections import namedtuple
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ecograph.loop.batches import batch_size, batches, device_of, grouped, loss_of, pairs, to_device

CPU = torch.device("cpu")
META = torch.device("meta")
X = torch.ones(3, 2)
Y = torch.zeros(3)
Point = namedtuple("Point", ["x", "y"])


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


def test_device_of_is_that_of_the_first_parameter() -> None:
    assert device_of(nn.Sequential(nn.ReLU(), nn.Linear(1, 1, device="meta"))) == META
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        device_of(nn.ReLU())


def test_to_device_reaches_into_nested_batches() -> None:
    batch = {"a": X, "b": [X, (X, "text", 3, None)], "c": Point(X, Y)}
    moved = to_device(batch, META)
    assert moved["a"].device == moved["b"][0].device == moved["b"][1][0].device == moved["c"].y.device == META
    assert moved["b"][1][1:] == ("text", 3, None)
    assert isinstance(moved["c"], Point)
    assert to_device(X, CPU) is X


def test_to_device_calls_the_own_method_of_other_batches() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(2), torch.ones(1)])
    assert to_device(packed, META).data.device == META


def test_pairs() -> None:
    assert [(x.shape, y.shape) for x, y in pairs([(X, Y), [X, Y]], CPU)] == [(X.shape, Y.shape)] * 2
    assert list(pairs([((X, X), Y)], CPU, inputs_are=tuple))[0][0][1] is X
    assert list(pairs([({"a": X}, Y)], CPU, inputs_are=dict))[0][0]["a"] is X


@pytest.mark.parametrize(
    ("batch", "inputs_are", "message"),
    [
        ({"a": X}, None, r'a batch is a dict: TrainingLoop\(batch="dict"\)'),
        ((X, Y, Y), None, r"a batch is 3 parts where \(inputs, targets\) is needed"),
        (X, None, "a batch is a Tensor where"),
        (((X, X), Y), None, r'inputs of a batch are a tuple: TrainingLoop\(batch="args"\)'),
        (({"a": X}, Y), None, r'inputs of a batch are a dict: TrainingLoop\(batch="kwargs"\)'),
        ((X, Y), tuple, r'inputs of a batch are a Tensor: TrainingLoop\(batch="pair"\)'),
        ((X, Y), dict, r'inputs of a batch are a Tensor: TrainingLoop\(batch="pair"\)'),
        (([X], Y), dict, r'inputs of a batch are a list: TrainingLoop\(batch="args"\)'),
    ],
)
def test_pairs_says_which_option_fits(batch: object, inputs_are: type | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(pairs([batch], CPU, inputs_are=inputs_are))


def test_grouped() -> None:
    assert list(grouped(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(grouped(range(4), 2)) == [[0, 1], [2, 3]]
    assert [len(group) for group in grouped(DataLoader(Stream(), batch_size=None), 3)] == [3, 2]


def test_grouped_reads_no_further_than_the_group() -> None:
    read = []
    groups = grouped((read.append(i) for i in range(9)), 3)
    next(groups)
    assert len(read) == 3


def test_an_empty_loader_is_an_error() -> None:
    for empty in (batches([], CPU), pairs([], CPU), grouped([], 2)):
        with pytest.raises(ValueError, match="no batches.*drop_last=True"):
            list(empty)


@pytest.mark.parametrize(
    ("batch", "size"),
    [(X, 3), (torch.tensor(1.0), 1), ({"id": "a", "x": X}, 3), ([X, Y], 3), ((("a",), {"x": X}), 3)],
)
def test_batch_size(batch: object, size: int) -> None:
    assert batch_size(batch) == size


def test_batch_size_needs_a_tensor() -> None:
    with pytest.raises(ValueError, match="no tensor to count"):
        batch_size({"a": "b"})


def test_loss_of() -> None:
    loss = torch.tensor(1.0)
    assert loss_of(SimpleNamespace(loss=loss), {}, None) is loss
    assert loss_of({"loss": loss}, {}, None) is loss
    assert loss_of({"loss": loss}, {"y": Y}, lambda outputs, batch: outputs["loss"] + batch["y"][0]) == 1.0
    for outputs in (SimpleNamespace(loss=None), {}, X):
        with pytest.raises(ValueError, match='"labels"'):
            loss_of(outputs, {}, None)
