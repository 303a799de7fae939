from __future__ import annotations

import pytest
import torch

from ecograph.tools.errors import UserError
from ecograph.tools.inputs import DTYPES, Input, example_inputs, parse

FORMS = {
    "8x3x32x32": Input((8, 3, 32, 32)),
    "8": Input((8,)),
    "8,3": Input((8, 3)),
    " 8 x 3 ": Input((8, 3)),
    "8×3": Input((8, 3)),
    "0x3": Input((0, 3)),
    "2x16:int64": Input((2, 16), "int64"),
    "2x16:bf16": Input((2, 16), "bfloat16"),
    "input_ids=2x16:long": Input((2, 16), "int64", "input_ids"),
    "mask=2x16": Input((2, 16), name="mask"),
}


@pytest.mark.parametrize("text", FORMS)
def test_forms(text: str) -> None:
    assert parse(text) == FORMS[text]


@pytest.mark.parametrize("text", FORMS)
def test_what_is_printed_can_be_given_again(text: str) -> None:
    assert parse(str(FORMS[text])) == FORMS[text]


@pytest.mark.parametrize("text", ["", "x", "8x", "x8", "8x-1", "8x3.5", "=8x3", "8x3:", "8x3:int7", "a=b=8x3", "8 3"])
def test_not_a_form(text: str) -> None:
    with pytest.raises(UserError, match="--input"):
        parse(text)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_exists(name: str) -> None:
    (tensor,), _ = example_inputs([parse(f"2x3:{name}")], "cpu") or ((), {})
    assert tensor.dtype is getattr(torch, DTYPES[name])


def test_positions_and_names() -> None:
    inputs = example_inputs([parse("2x3"), parse("mask=4:bool"), parse("5")], "meta")
    assert inputs is not None
    args, kwargs = inputs
    assert [tuple(tensor.shape) for tensor in args] == [(2, 3), (5,)]
    assert list(kwargs) == ["mask"] and kwargs["mask"].is_meta


def test_none_given() -> None:
    assert example_inputs([], "cpu") is None
