"""Batch normalization of a slice of the channels, with the running statistics of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.take import Cut, put, take_all


class SlicedNorm:
    """What a batch norm needs to know to run on a slice.

    Args:
        name: of the layer.
        cuts: how its channels are cut: one :class:`Cut` of dimension 0, or none where they stay whole.
        scale_of: the group, normalized by flow, whose scale the layer before did not put into its result because the
            norm takes it out again; None where there is nothing to make up for.
        gain_of: the group, normalized by flow, whose scale the norm's weight and bias carry for the layers behind it.

    Raises:
        ValueError: where ``scale_of`` or ``gain_of`` has no one scale.
    """

    def __init__(
        self,
        name: str,
        *,
        cuts: Sequence[Cut] = (),
        scale_of: GroupSlice | None = None,
        gain_of: GroupSlice | None = None,
    ) -> None:
        for option, group in (("scale_of", scale_of), ("gain_of", gain_of)):
            if group is not None and group.normalization != "flow":
                raise ValueError(f"{name}: {option}={group.name!r}: give a group normalized by flow; it has one scale")
        self.name = name
        self.cuts = tuple(cuts)
        self.scale_of = scale_of
        self.gain_of = gain_of

    def __repr__(self) -> str:
        return f"SlicedNorm({self.name!r})"

    @property
    def active(self) -> bool:
        """Whether anything is cut off, or has to be made up for, now."""
        return any(cut.active for cut in self.cuts) or (self.scale_of is not None and self.scale_of.active)

    def scale(self) -> float:
        """Returns by what the input must be thought multiplied."""
        return _scale_now(self.scale_of)

    def gain(self) -> float:
        """Returns by what the result is multiplied."""
        return _scale_now(self.gain_of)


def _scale_now(group: GroupSlice | None) -> float:
    if group is None or not group.active:
        return 1.0
    scale = group.scale()
    assert isinstance(scale, (int, float))
    return scale


def sliced_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    cuts: Sequence[Cut] = (),
    scale: float = 1.0,
    gain: float = 1.0,
    name: str = "the batch norm",
) -> Tensor:
    """``F.batch_norm`` of a slice of the channels.

    Args:
        input: ``(N, C_slice, *positions)``.
        running_mean: ``(C,)`` or None; its slice is updated in place.
        running_var: likewise.
        weight: ``(C,)`` or None.
        bias: ``(C,)`` or None.
        training: normalize with the statistics of the batch.
        momentum: as in ``F.batch_norm``.
        eps: as in ``F.batch_norm``.
        cuts: how ``C`` is cut.
        scale: the result is that of ``scale * input``, which is never computed: the norm takes the scale out again, so
            it only shows in the running statistics and in how much ``eps`` counts. In training the running variance
            takes on ``scale`` and not its square: what a slice of uncorrelated units adds up to has ``1 / scale``
            of the variance of the full sum.
        gain: the result is multiplied by it, by way of the weight and the bias, which must both be there.
        name: of the layer, for errors.

    Returns:
        ``(N, C_slice, *positions)``.
    """
    buffers = [full for full in (running_mean, running_var) if full is not None]
    affine = [full for full in (weight, bias) if full is not None]
    taken = take_all([*buffers, *affine], cuts, name=f"a statistic or weight of {name}")
    slices, affine = taken[: len(buffers)], taken[len(buffers) :]
    weight = affine.pop(0) if weight is not None else None
    bias = affine.pop(0) if bias is not None else None
    if gain != 1:
        assert weight is not None and bias is not None
        weight, bias = weight * gain, bias * gain
    powers = (scale, scale if training else scale * scale)
    seen = slices if scale == 1 else [part / power for part, power in zip(slices, powers, strict=False)]
    mean, var = seen if seen else (None, None)
    output = F.batch_norm(input, mean, var, weight, bias, training, momentum, eps / scale**2)
    if training and scale != 1:
        for full, place, part, power in zip(buffers, slices, seen, powers, strict=False):
            _write(full, cuts, place, part * power)
    elif training:
        for full, part in zip(buffers, seen, strict=True):
            if part is not full:
                _write(full, cuts, part, part)
    return output


def _write(full: Tensor, cuts: Sequence[Cut], place: Tensor, value: Tensor) -> None:
    """Writes ``value`` into the part of ``full`` that ``take_all`` gave as ``place``, which may be a view of it."""
    if torch.compiler.is_compiling() or not (place is full or place._is_view()):
        put(full, cuts, value)
    elif value is not place:
        place.copy_(value)
