"""Every kind of data spec: what it gives, and what is said of one that is not understood."""

from __future__ import annotations

import gzip
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from ecograph.tools.data import KINDS, describe, find
from ecograph.tools.errors import UserError

OWN = """
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

samples = TensorDataset(torch.arange(12.0).view(6, 2), torch.arange(6))
batches = [(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))]

def train_alone():
    return samples

def both():
    return samples, TensorDataset(torch.zeros(2, 2), torch.zeros(2))

def loaders():
    return DataLoader(samples, batch_size=2), batches

def no_validation():
    return batches, None

class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2), 0)] * 5)

def three():
    return 1, 2, 3

def generator():
    return (batch for batch in batches)

def wrong():
    return samples, 7

def fails():
    raise OSError("no disk")

def needs(folder):
    return samples
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_data.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
    return tmp_path


#: spec -> samples to train on, to validate, shape of one, loss
GIVEN: dict[str, tuple[int, int, tuple[int, ...], str]] = {
    "digits": (539, 1258, (1, 8, 8), "cross_entropy"),
    "digits:shifted": (539, 1258, (1, 8, 8), "cross_entropy"),
    "random:3x8x8:10": (512, 128, (3, 8, 8), "cross_entropy"),
    "random:7:2:9": (9, 2, (7,), "cross_entropy"),
    "random:3×4:5:1": (1, 1, (3, 4), "cross_entropy"),
}


@pytest.mark.parametrize("spec", GIVEN)
def test_samples(spec: str) -> None:
    data = find(spec)
    train, val, shape, loss = GIVEN[spec]
    assert (data.spec, len(data.train), len(data.val), data.loss) == (spec, train, val, loss)
    inputs, target = data.train[0]
    assert inputs.shape == shape and inputs.dtype == torch.float32
    assert target.dtype == torch.int64 and target.ndim == 0


def test_the_same_spec_gives_the_same_data() -> None:
    torch.manual_seed(1)
    first = find("random:5:3")
    torch.manual_seed(2)
    second = find("random:5:3")
    for a, b in zip(first.train.tensors + first.val.tensors, second.train.tensors + second.val.tensors, strict=True):
        assert torch.equal(a, b)
    assert first.train.tensors[1].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [
        ("samples", "TensorDataset", "NoneType"),
        ("train_alone", "TensorDataset", "NoneType"),
        ("both", "TensorDataset", "TensorDataset"),
        ("loaders", "DataLoader", "list"),
        ("batches", "list", "NoneType"),
        ("no_validation", "list", "NoneType"),
        ("Stream", "Stream", "NoneType"),
    ],
)
@pytest.mark.parametrize("place", ["own_data.py", "own_data", "./own_data.py"])
def test_own(place: str, name: str, train: str, val: str) -> None:
    data = find(f"{place}:{name}")
    assert (type(data.train).__name__, type(data.val).__name__) == (train, val)


#: What was given, and what the error says.
MISTAKES: list[tuple[str, tuple[str, ...]]] = [
    ("", ("''", *(kind.form for kind in KINDS.values()), "file.py:function")),
    ("digist", ("'digist'", "did you mean digits", "random:SHAPE:CLASSES")),
    ("cifar:10", ("'cifar:10'", "no module 'cifar'", "torchvision:NAME:FOLDER")),
    ("digits:10", ("'digits:10'", "digits:shifted")),
    ("random", ("random:3x32x32:10",)),
    ("random:3x32x32", ("random:3x32x32:10",)),
    ("random:3x:10", ("random:3x32x32:10",)),
    ("random:0x3:10", ("random:3x32x32:10",)),
    ("random:3:1", ("two classes",)),
    ("random:3:10:0", ("random:3x32x32:10",)),
    ("torchvision:CIFAR10", ("torchvision:CIFAR10:data",)),
    ("torchvision:CIFAR1:data", ("'CIFAR1'", "did you mean CIFAR10")),
    ("torchvision:CIFAR10:nowhere", ("nothing is downloaded", "torchvision:CIFAR10:nowhere")),
    ("torchvision:SVHN:nowhere", ("nothing is downloaded",)),
    ("torchvision:ImageFolder:nowhere", ("nowhere", "nothing is downloaded")),
    ("torchvision:Omniglot:nowhere", ("file.py:function",)),
    ("nothing.py:data", ("no file nothing.py",)),
    ("own_data.py:bth", ("no 'bth'", "did you mean both")),
    ("own_data.py:three", ("a tuple of 3", "(train, validation)")),
    ("own_data.py:generator", ("a generator", "loader of batches")),
    ("own_data.py:wrong", ("(TensorDataset, int)",)),
    ("own_data.py:fails", ("OSError: no disk", "own_data.py, line")),
    ("own_data.py:needs", ("needs arguments (folder)",)),
]


@pytest.mark.parametrize(("spec", "words"), MISTAKES, ids=[spec or "nothing" for spec, _ in MISTAKES])
def test_mistakes(spec: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        find(spec)
    for word in words:
        assert word in str(caught.value)


def test_every_kind_is_described() -> None:
    lines = describe().splitlines()
    assert [line.partition(": ")[0] for line in lines[:-1]] == [kind.form for kind in KINDS.values()]
    assert all(name == re.split(r"\W", kind.form)[0] for name, kind in KINDS.items())


# -- torchvision, from files as they lie on a disk --------------------------------------------------------------------


def images(folder: Path, name: str, count: int) -> None:
    """Writes images and labels as MNIST has them."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    pixels = bytes(value % 256 for value in range(count * 28 * 28))
    for part, head, body in (
        ("images-idx3", struct.pack(">IIII", 2051, count, 28, 28), pixels),
        ("labels-idx1", struct.pack(">II", 2049, count), bytes(at % 10 for at in range(count))),
    ):
        (raw / f"{name}-{part}-ubyte").write_bytes(head + body)
        with gzip.open(raw / f"{name}-{part}-ubyte.gz", "wb") as file:
            file.write(head + body)


def test_a_data_set_of_torchvision_on_disk(tmp_path: Path) -> None:
    images(tmp_path / "files", "train", 6)
    images(tmp_path / "files", "t10k", 4)
    data = find("torchvision:MNIST:files")
    assert (len(data.train), len(data.val)) == (6, 4)
    image, target = data.train[3]
    assert image.shape == (1, 28, 28) and image.dtype == torch.float32 and target == 3
    assert image.min() == -1 and image.max() == 1
    assert find("torchvision:MNIST:files:32").train[0][0].shape == (1, 32, 32)


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_folder_of_images(tmp_path: Path, name: str) -> None:
    from PIL import Image

    for at, place in enumerate(("train/cat", "train/dog", f"{name}/cat", f"{name}/dog")):
        (tmp_path / "pets" / place).mkdir(parents=True)
        Image.new("RGB", (20 + at, 10)).save(tmp_path / "pets" / place / "1.png")
    data: Any = find("torchvision:ImageFolder:pets:8")
    assert (len(data.train), len(data.val)) == (2, 2)
    (inputs, targets), *_ = DataLoader(data.train, batch_size=2)
    assert inputs.shape == (2, 3, 8, 8) and targets.tolist() == [0, 1]
