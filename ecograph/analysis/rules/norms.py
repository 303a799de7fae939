"""Norms, softmax, reductions and pooling: what happens along some dimensions ends them, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ecograph.analysis.dimensions import Equal, Fact, Stop
from ecograph.analysis.rules.call import Call, dims_of, same


def per_channel(call: Call) -> Iterator[Fact]:
    """Batch norm and instance norm: each channel by itself, with statistics and weights of its own."""
    yield from same(call.input, call.output)
    over = call.input[2:] if call.name == "instance_norm" else [call.input[0], *call.input[2:]]
    yield Stop(tuple(over), f"{call.where()} normalizes over it")
    for tensor in call.tensors[1:]:
        yield Equal(tuple(dims_of(tensor)), (call.input[1],))


def over_last(call: Call) -> Iterator[Fact]:
    """Layer norm and RMS norm: over the last dimensions, so these must stay whole."""
    shape = call.arg(1, "normalized_shape")
    last = len(shape) if isinstance(shape, (tuple, list)) else 1
    yield from same(call.input, call.output)
    yield Stop(tuple(call.input[-last:]), f"{call.where()} normalizes over it")


def group_norm(call: Call) -> Iterator[Fact]:
    """Each group of channels by itself: whole groups can go, single channels cannot."""
    count = int(call.arg(1, "num_groups"))
    channels = call.input[1]
    groups = call.axis("groups", count)
    inside, stop = call.fixed("inside", call.size(channels) // count, f"{call.where()} normalizes over it")
    yield stop
    yield from same(call.input, call.output)
    yield Stop(tuple(call.input[2:]), f"{call.where()} normalizes over it")
    yield Equal((channels,), (groups, inside))
    for tensor in call.tensors[1:]:
        yield Equal(tuple(dims_of(tensor)), (channels,))


def along(call: Call) -> Iterator[Fact]:
    """Softmax and the like: the dimension it runs along must stay whole."""
    axis: Any = call.arg(2, "dim", 1) if call.name == "normalize" else call.arg(1, "dim")
    yield from same(call.input, call.output)
    axes = [0, 1, 2, 3] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    stopped = tuple(call.input[i % len(call.input)] for i in axes if i < len(call.input))
    yield Stop(stopped, f"{call.where()} runs along it")


def gated(call: Call) -> Iterator[Fact]:
    """``glu``: the first half of a dimension times a function of the second."""
    axis = int(call.arg(1, "dim", -1)) % len(call.input)
    yield from same(*(dims[:axis] + dims[axis + 1 :] for dims in (call.input, call.output)))
    halves, stop = call.fixed("halves", 2, f"it is taken apart by {call.where()}")
    yield stop
    yield Equal((call.input[axis],), (halves, call.output[axis]))


def reduced(call: Call) -> Iterator[Fact]:
    """``mean``, ``sum`` and the like: the dimensions that are summed over end."""
    axes = call.arg(2 if "norm" in call.name else 1, "dim")  # the order of a norm comes first
    if axes is None or not call.output and len(call.input):
        return
    gone = {axis % len(call.input) for axis in ((axes,) if isinstance(axes, int) else axes)}
    kept = len(call.output) == len(call.input)
    outputs = call.outputs or [call.output]
    yield Stop(tuple(call.input[axis] for axis in gone), f"{call.where()} runs over it")
    for output in outputs:
        left = [dim for i, dim in enumerate(call.input) if i not in gone]
        right = [dim for i, dim in enumerate(output) if not (kept and i in gone)]
        yield from same(left, right)


def pooled(call: Call) -> Iterator[Fact]:
    """Pooling and resizing: batch and channels stay, positions do not."""
    spatial = 3 if "3d" in call.name else 2 if "2d" in call.name else 1 if "1d" in call.name else len(call.input) - 2
    for output in call.outputs or [call.output]:
        yield from same(call.input[:-spatial], output[:-spatial])


RULES = {
    **dict.fromkeys(["batch_norm", "instance_norm"], per_channel),
    **dict.fromkeys(["layer_norm", "rms_norm"], over_last),
    "group_norm": group_norm,
    **dict.fromkeys(["softmax", "log_softmax", "softmin", "normalize", "cumsum", "cumprod", "logcumsumexp"], along),
    "glu": gated,
    **dict.fromkeys([
        "mean", "sum", "amax", "amin", "prod", "norm", "linalg_norm", "linalg_vector_norm", "var", "std", "logsumexp",
        "all", "any", "var_mean", "std_mean",
    ], reduced),  # fmt: skip
    **dict.fromkeys(
        [
            *(f"{kind}_pool{n}d" for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)),
            *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
            *(f"adaptive_max_pool{n}d_with_indices" for n in (1, 2, 3)),
            *("boolean_dispatch", "interpolate", "upsample", "upsample_nearest", "upsample_bilinear"),
        ],
        pooled,
    ),
}
