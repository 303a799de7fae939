"""Convolutions and matrix products, under whichever of torch's names they were called.

One small table per way of calling: which argument is the input, which the weight, which the bias. Adding a
way of calling is one entry in ``SIGNATURES`` (and one test).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Signature:
    """How a torch function computes a product.

    Attributes:
        kind: ``"linear"`` or ``"conv"``.
        names: the function's parameters, in order.
        input: which of them is the activation.
        weight: which is the weight.
        bias: which is the bias, or None.
        transposed: for ``"conv"``: a transposed convolution. For ``"linear"``: the weight is ``(in, out)``.
        dims: for ``"conv"``: the number of spatial dimensions.
    """

    kind: str
    names: tuple[str, ...]
    input: str
    weight: str
    bias: str | None = None
    transposed: bool = False
    dims: int = 0

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the call's arguments by name."""
        bound = dict(zip(self.names, args, strict=False))
        bound.update(kwargs)
        return bound


def _conv(dims: int) -> Signature:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    return Signature("conv", names, "input", "weight", "bias", dims=dims)


def _conv_transpose(dims: int) -> Signature:
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    return Signature("conv", names, "input", "weight", "bias", transposed=True, dims=dims)


_LINEAR = Signature("linear", ("input", "weight", "bias"), "input", "weight", "bias")
_MATMUL = Signature("linear", ("input", "other"), "input", "other", transposed=True)
_MM = Signature("linear", ("input", "mat2"), "input", "mat2", transposed=True)
_ADDMM = Signature("linear", ("input", "mat1", "mat2"), "mat1", "mat2", "input", transposed=True)

#: Functions (and Tensor methods) that multiply by something that may be a weight.
SIGNATURES: dict[Callable[..., Any], Signature] = {
    F.linear: _LINEAR,
    torch.matmul: _MATMUL,
    operator.matmul: _MATMUL,
    torch.Tensor.matmul: _MATMUL,
    torch.Tensor.__matmul__: _MATMUL,
    torch.mm: _MM,
    torch.Tensor.mm: _MM,
    torch.addmm: _ADDMM,
    torch.Tensor.addmm: _ADDMM,
    F.conv1d: _conv(1),
    F.conv2d: _conv(2),
    F.conv3d: _conv(3),
    F.conv_transpose1d: _conv_transpose(1),
    F.conv_transpose2d: _conv_transpose(2),
    F.conv_transpose3d: _conv_transpose(3),
}

#: Products that ecograph sees and counts but does not rewrite, with the words for it.
OTHER_PRODUCTS: dict[Callable[..., Any], str] = {
    torch.bmm: "a batched product (torch.bmm)",
    torch.Tensor.bmm: "a batched product (torch.bmm)",
    torch.baddbmm: "a batched product (torch.baddbmm)",
    torch.Tensor.baddbmm: "a batched product (torch.baddbmm)",
    torch.einsum: "an einsum",
    F.bilinear: "a bilinear form",
    torch.mv: "a matrix-vector product",
    torch.Tensor.mv: "a matrix-vector product",
}


#: Recurrent layers and cells: for each, where the list of weights is among the arguments, or where the
#: weights begin.
RECURRENT: dict[Callable[..., Any], int] = {
    torch.lstm: 2,
    torch.gru: 2,
    torch.rnn_tanh: 2,
    torch.rnn_relu: 2,
    torch.lstm_cell: 2,
    torch.gru_cell: 2,
    torch.rnn_tanh_cell: 2,
    torch.rnn_relu_cell: 2,
}
OTHER_PRODUCTS.update(dict.fromkeys(RECURRENT, "a recurrent layer"))


@dataclass(frozen=True)
class Product:
    """A product found in a graph.

    Attributes:
        node: where it is called.
        signature: how; None for the products of ``OTHER_PRODUCTS``.
        operands: the nodes it multiplies: input and weight, in this order where there is a signature.
        arguments: its arguments by name.
        problem: why it cannot be rewritten, or "".
    """

    node: fx.Node
    signature: Signature | None
    operands: tuple[fx.Node, ...]
    arguments: dict[str, Any]
    problem: str = ""

    @property
    def input(self) -> fx.Node:
        """The activation."""
        return self.operands[0]

    @property
    def weight(self) -> fx.Node:
        """The weight."""
        return self.operands[1]


def function_of(node: fx.Node) -> Callable[..., Any] | None:
    """Returns the function a node calls, with methods as functions of ``torch.Tensor``."""
    if node.op == "call_function":
        return node.target  # type: ignore[return-value]
    if node.op == "call_method":
        return getattr(torch.Tensor, str(node.target), None)
    return None


def find_product(node: fx.Node) -> Product | None:
    """Returns the product that ``node`` computes, or None where it computes something else."""
    function = function_of(node)
    if function is None:
        return None
    try:
        signature = SIGNATURES.get(function)
        words = OTHER_PRODUCTS.get(function)
    except TypeError:  # an unhashable callable is none of ours
        return None
    if words is None and "grouped_mm" in getattr(
        function, "__name__", ""
    ):  # a family, with fallbacks by library
        words = "a grouped product (one weight per expert)"
    if signature is None:
        if words is None:
            return None
        return Product(node, None, _operands(node, function), {}, f"{words} is not rewritten")
    arguments = signature.bind(node.args, dict(node.kwargs))
    operands = tuple(arguments.get(name) for name in (signature.input, signature.weight))
    if not all(isinstance(operand, fx.Node) for operand in operands):
        return None
    return Product(node, signature, operands, arguments, _problem(arguments))  # type: ignore[arg-type]


def _operands(node: fx.Node, function: Callable[..., Any]) -> tuple[fx.Node, ...]:
    """Returns what a call without a signature multiplies; of a recurrent layer, the input and the weights."""
    start = RECURRENT.get(function)
    if start is None:
        return tuple(node.all_input_nodes)
    leaves = pytree.tree_leaves((node.args[:1], node.args[start:]))
    return tuple(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, fx.Node)))


def _problem(arguments: dict[str, Any]) -> str:
    if arguments.get("alpha", 1) != 1 or arguments.get("beta", 1) != 1:
        return "addmm with alpha or beta other than 1 is not rewritten"
    return ""
