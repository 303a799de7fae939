from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ecograph.passes.sparse_backward.gather import (
    as_channels_last,
    is_channels_last,
    put_rows,
    take_columns,
    take_rows,
)

INDEX = torch.tensor([1, 2, 5])
LAYOUTS = {
    "rows": lambda: torch.randn(6, 4),
    "columns": lambda: torch.randn(4, 6).t(),
    "strided": lambda: torch.randn(12, 8)[::2, ::2],
    "one row": lambda: torch.randn(6, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_take(layout: str) -> None:
    matrix = LAYOUTS[layout]()
    expected = torch.stack([matrix[i] for i in INDEX.tolist()])
    assert torch.equal(take_rows(matrix, INDEX), expected)
    assert torch.equal(take_columns(matrix.t(), INDEX), expected.t())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_put_fills_everything_else(layout: str) -> None:
    like = LAYOUTS[layout]()
    rows = torch.randn(3, like.shape[1], dtype=torch.float64)
    fill = torch.tensor([0.0, 9, 9, 0, torch.nan, 9], dtype=torch.float64)
    full = put_rows(like, fill, INDEX, rows)
    assert full.dtype == torch.float64
    assert full.shape == like.shape
    if layout != "strided":
        assert full.stride() == like.stride()
    for row in range(6):
        expected = rows[[1, 2, 5].index(row)] if row in (1, 2, 5) else fill[row].expand(like.shape[1])
        torch.testing.assert_close(full[row], expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_put_keeps_the_layout_of_kernels(memory_format: torch.memory_format) -> None:
    like = torch.randn(6, 4, 3, 3).to(memory_format=memory_format)
    full = put_rows(like, torch.zeros(6), INDEX, torch.ones(3, 4, 3, 3))
    assert full.stride() == like.stride()
    assert full.sum((1, 2, 3)).tolist() == [0, 36, 36, 0, 0, 36]


FORMATS = {
    "2d contiguous": (lambda: torch.randn(2, 3, 4, 5), False),
    "2d channels_last": (lambda: torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), True),
    "3d channels_last": (lambda: torch.randn(2, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d), True),
    "1d transposed": (lambda: torch.randn(2, 5, 3).transpose(1, 2), True),
    "one channel": (lambda: torch.randn(2, 1, 4, 5).to(memory_format=torch.channels_last), False),
    "one position": (lambda: torch.randn(2, 3, 1, 1), False),
}


@pytest.mark.parametrize("name", FORMATS)
def test_which_layout(name: str) -> None:
    make, expected = FORMATS[name]
    tensor: Tensor = make()
    assert is_channels_last(tensor) is expected
    for yes in (True, False):
        other = as_channels_last(tensor, yes)
        assert torch.equal(other, tensor)
        assert (other.movedim(1, -1) if yes else other).is_contiguous()
