"""Calls that compute each element from the elements at the same place, with broadcasting."""

from __future__ import annotations

from collections.abc import Iterator

from ecograph.analysis.dimensions import Equal, Fact
from ecograph.analysis.rules.call import Call, broadcast, dims_of, same

#: Of all their operands.
NAMES = [
    "add", "sub", "rsub", "mul", "div", "true_divide", "truediv", "floor_divide", "floordiv", "pow",
    "remainder", "fmod", "mod", "radd", "rmul", "rtruediv", "rpow", "neg", "abs", "exp", "expm1", "log",
    "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "square", "sin", "cos", "tan", "sinh", "cosh", "erf",
    "sign", "floor", "ceil", "round", "trunc", "sigmoid", "tanh", "relu", "relu6", "gelu", "silu", "mish",
    "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "selu", "celu", "softplus", "softsign",
    "softshrink", "hardshrink", "tanhshrink", "threshold", "logsigmoid", "log_sigmoid", "clamp", "clip",
    "clamp_min", "clamp_max", "minimum", "maximum", "where", "masked_fill", "lerp", "addcmul", "addcdiv",
    "nan_to_num", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "logical_xor",
    "bitwise_and", "bitwise_or", "bitwise_not", "and", "or", "xor", "invert", "isnan", "isinf", "isfinite",
]  # fmt: skip

#: Of their first operand alone: others give a dtype or a device, or nothing.
LIKE_FIRST = [
    "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d",
    "dropout3d", "to", "type", "type_as", "float", "half", "bfloat16", "double", "long", "int", "bool", "cpu",
    "cuda", "contiguous", "clone", "detach", "requires_grad", "zeros_like", "ones_like", "empty_like",
    "full_like", "rand_like", "randn_like", "bernoulli", "uniform", "normal", "zero", "fill",
]  # fmt: skip


def elementwise(call: Call) -> Iterator[Fact]:
    """Every operand is broadcast to the result."""
    for tensor in call.tensors:
        yield from broadcast(call, dims_of(tensor), call.output)


def like_first(call: Call) -> Iterator[Fact]:
    """The result has the shape of the first operand."""
    yield from same(call.input, call.output)
    for tensor in call.tensors[1:]:
        if call.name in ("to", "type_as"):  # only its dtype and device matter
            yield from same(dims_of(tensor), dims_of(tensor))
        else:
            yield from broadcast(call, dims_of(tensor), call.output)


def prelu(call: Call) -> Iterator[Fact]:
    """Has one slope for all channels, or one for each."""
    yield from same(call.input, call.output)
    (slopes,) = dims_of(call.arg(1, "weight"))
    if call.size(slopes) > 1:
        yield Equal((slopes,), (call.input[1],))


def checked(call: Call) -> Iterator[Fact]:
    """Gives nothing, and looks at the dtype, the device and maybe at sizes."""
    if call.arg(1, "size") is None and call.arg(2, "stride") is None:
        yield from same(call.input, call.input)


RULES = {
    "_assert_tensor_metadata": checked,
    **dict.fromkeys(NAMES, elementwise),
    **dict.fromkeys(LIKE_FIRST, like_first),
    "prelu": prelu,
}
