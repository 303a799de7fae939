from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ecograph.tools.data import find, text
from ecograph.tools.errors import UserError


def test_the_text_is_split_by_file() -> None:
    train, validation = text.library()
    assert train.dtype == validation.dtype == torch.uint8
    assert 0.04 < len(validation) / len(train) < 0.2
    root = Path(json.__file__).parents[1]
    names = [path.relative_to(root).as_posix() for path in text.sources(root)]
    assert names == list(dict.fromkeys(names)) and "json/decoder.py" in names
    assert not [name for name in names if "site-packages" in name or "/tests/" in name or name.startswith("test/")]
    inputs, targets = text.windows(train, torch.tensor([0, 5]), 128)
    assert inputs.shape == targets.shape == (2, 128)
    assert torch.equal(inputs[0, 5:], inputs[1, :-5]) and torch.equal(inputs[:, 1:], targets[:, :-1])


def test_the_windows_are_the_text() -> None:
    letters = torch.tensor(list(b"abcdefghijk"), dtype=torch.uint8)
    cut = text.Windows(letters, 3)
    found = [(bytes(inputs.tolist()), bytes(targets.tolist())) for inputs, targets in (cut[i] for i in range(len(cut)))]
    assert found == [(b"abc", b"bcd"), (b"def", b"efg"), (b"ghi", b"hij")]
    assert list(cut)[-1][0].dtype == torch.int64
    with pytest.raises(IndexError):
        cut[3]


@pytest.mark.parametrize(("spec", "length"), [("text:stdlib", 128), ("text:stdlib:32", 32)])
def test_spec(spec: str, length: int) -> None:
    data = find(spec)
    assert data.spec == spec and data.loss == "token_cross_entropy"
    assert data.train[0][0].shape == data.val[-1 + len(data.val)][1].shape == (length,)


@pytest.mark.parametrize("spec", ["text:", "text", "text:shakespeare", "text:stdlib:0", "text:stdlib:long"])
def test_mistakes(spec: str) -> None:
    with pytest.raises(UserError, match="text:stdlib:128"):
        find(spec)
