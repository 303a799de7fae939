"""Products: with weights, of activations, attention and lookups."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from ecograph.analysis.dimensions import Dim, Equal, Fact, Stop
from ecograph.analysis.rules.call import Call, broadcast, dims_of, same
from ecograph.analysis.sites import Site

#: Names of the axes of a convolution's channels.
GROUPS, OUT, IN = "groups", "out", "in"


def weighted(call: Call, site: Site) -> Iterator[Fact]:
    """A linear product or convolution with a weight: input and output channels are dimensions of the weight."""
    yield from _convolution(call, site) if site.kind == "conv" else _linear(call, site)


def _linear(call: Call, site: Site) -> Iterator[Fact]:
    input, output, weight = dims_of(site.product.input), call.output, dims_of(site.product.weight)
    channels_in, channels_out = weight if site.transposed else reversed(weight)
    yield from same(input[:-1], output[:-1])
    yield Equal((input[-1],), (channels_in,))
    yield Equal((output[-1],), (channels_out,))
    yield from _bias(call, site, output[-1])


def _convolution(call: Call, site: Site) -> Iterator[Fact]:
    assert site.product.signature is not None
    input, output, weight = dims_of(site.product.input), call.output, dims_of(site.product.weight)
    channel = len(input) - site.product.signature.dims - 1
    yield from same(input[:channel], output[:channel])
    groups = call.axis(GROUPS, site.groups)
    per_out = call.axis(OUT, call.size(output[channel]) // site.groups)
    per_in = call.axis(IN, call.size(input[channel]) // site.groups)
    yield Equal((input[channel],), (groups, per_in))
    yield Equal((output[channel],), (groups, per_out))
    if site.transposed:
        yield Equal((weight[0],), (groups, per_in))
        yield Equal((weight[1],), (per_out,))
    else:
        yield Equal((weight[0],), (groups, per_out))
        yield Equal((weight[1],), (per_in,))
    yield from _bias(call, site, output[channel])


def _bias(call: Call, site: Site, channels: Dim) -> Iterator[Fact]:
    signature = site.product.signature
    bias = dims_of(site.product.arguments.get(signature.bias)) if signature and signature.bias else []
    if len(bias) == 1 and call.size(bias[0]) == call.size(channels):
        yield Equal((bias[0],), (channels,))
    elif any(call.size(dim) != 1 for dim in bias):
        yield Stop((*bias, *call.output), f"{call.where()} adds something that is not one number for each channel")


def multiplied(call: Call) -> Iterator[Fact]:
    """A matrix product of two activations: only batches, such as heads, go on.

    Rows and columns could: slicing the columns of ``attention @ values`` would slice inside the heads of the values.
    """
    first, second = call.tensors[-2:] if len(call.tensors) > 1 else call.tensors * 2
    a, b, output = dims_of(first), dims_of(second), call.output
    if len(a) < 2 or len(b) < 2:
        return
    yield from broadcast(call, a[:-2], output[:-2])
    yield from broadcast(call, b[:-2], output[:-2])
    yield from same((a[-2], b[-1]), output[-2:])
    yield Stop((a[-1], b[-2]), f"{call.where()} sums over it")
    yield Stop((a[-2], b[-1]), f"it is a row or column of {call.where()}", structural=True)
    if len(call.tensors) == 3:  # baddbmm
        yield from broadcast(call, dims_of(call.tensors[0]), output)


def attention(call: Call) -> Iterator[Fact]:
    """Scaled dot-product attention: heads are units; inside a head nothing is sliced."""
    query, key, value = (dims_of(call.arg(i, name)) for i, name in enumerate(("query", "key", "value")))
    output = call.output
    yield from same(query[:-1], output[:-1])
    for dims in (key, value):
        for shared, full in zip(dims[:-2], query[:-2], strict=True):
            ratio = call.size(full) // max(call.size(shared), 1)
            if ratio == 1:
                yield Equal((shared,), (full,))
            else:  # grouped queries: each head of the keys serves several
                served, stop = call.fixed(f"queries of {shared.axis}", ratio, "they share one head of the keys")
                yield stop
                yield Equal((full,), (shared, served))
    yield from same((key[-2],), (value[-2],))
    yield Equal((value[-1],), (output[-1],))
    yield Stop((query[-1], key[-1], value[-1]), "it is inside a head", structural=True)
    yield Stop((key[-2],), f"{call.where()} runs along it")
    if call.arg(5, "is_causal", False):
        yield Stop((query[-2],), f"{call.where()} masks it by its place")
    mask = dims_of(call.arg(3, "attn_mask"))
    yield from broadcast(call, mask, [*query[:-1], key[-2]])


def lookup(call: Call) -> Iterator[Fact]:
    """``embedding``: the features of a table's rows."""
    indices, table = dims_of(call.arg(0, "input")), dims_of(call.arg(1, "weight"))
    yield from same(indices, call.output[:-1])
    yield Equal((table[-1],), (call.output[-1],))
    yield Stop((table[0],), f"{call.where()} looks rows up in it")
    if call.arg(3, "max_norm") is not None:
        yield Stop((table[-1],), f"{call.where()} limits the norm of its rows")


def gathered(call: Call) -> Iterator[Fact]:
    """``gather``: dimensions along which every index has its own place go on."""
    axis = int(call.arg(1, "dim")) % len(call.input)
    index = dims_of(call.arg(2, "index"))
    for i, (source, place, dim) in enumerate(zip(call.input, index, call.output, strict=True)):
        if i != axis and call.size(source) == call.size(place):
            yield Equal((source,), (dim,))
            yield Equal((place,), (dim,))


def einsum(call: Call) -> Iterator[Fact]:
    """By letters: those in the result go on, the others are summed over."""
    equation, *operands = call.node.args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = dict(zip(result, call.output, strict=True))
    for term, operand in zip(terms.split(","), operands, strict=True):
        for letter, dim in zip(term, dims_of(operand), strict=True):
            if letter in letters:
                yield Equal((dim,), (letters[letter],))
            else:
                yield Stop((dim,), f"{call.where()} sums over it")


def is_weighted(site: Site | None) -> bool:
    """Whether a call is a product whose weight can be sliced."""
    return site is not None and not site.problem and site.kind != "other"


def nodes(sites: list[Site]) -> dict[fx.Node, Site]:
    """Returns the sites by their nodes."""
    return {site.node: site for site in sites}


RULES = {
    **dict.fromkeys(["matmul", "mm", "bmm", "baddbmm"], multiplied),
    "scaled_dot_product_attention": attention,
    "embedding": lookup,
    "gather": gathered,
    "einsum": einsum,
}
