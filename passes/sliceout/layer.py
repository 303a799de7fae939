"""One sliced layer at run time: its parameters are cut to the slices in force, then the small product is computed.

The activations that reach it are small already, since what made them was sliced alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecograph.analysis.layout import Layout, is_sliced
from ecograph.cost.flops import Flops
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.take import Cut, full_size, rescale, size_now, take
from ecograph.rewrite.functions import plain_conv
from ecograph.rewrite.passes import Layer
from ecograph.schedule import Mix, Rate


class SlicedLayer:
    """How the weight and bias of a linear layer or convolution are cut. Shared by all calls of the layer.

    Args:
        name: of the layer.
        rate: the pass's rate, shared by all its layers.
        out: the output channels, of one group of a grouped convolution (all of them will do too where they are the
            weight's dimension 0); None where they stay whole.
        inp: the input channels, likewise.
        groups: the groups of a grouped or depthwise convolution, where whole groups are sliced.
        slices: the slice of each channel group in these layouts.
        scaled: multiply the weight by the slices' scales along its input channels.
        inner: what computes the small product; None for torch's own function.
    """

    def __init__(
        self,
        name: str,
        *,
        rate: SliceRate,
        out: Layout | None = None,
        inp: Layout | None = None,
        groups: Layout | None = None,
        slices: Mapping[str, GroupSlice],
        scaled: bool = False,
        inner: Layer | None = None,
    ) -> None:
        self.name = name
        self.rate: Rate = rate
        self.out, self.inp, self.groups = (
            layout if layout and is_sliced(layout) else None for layout in (out, inp, groups)
        )
        self.slices = dict(slices)
        self.scaled = scaled
        self.inner = inner
        self._known_cuts: dict[tuple[Any, ...], tuple[list[Cut], list[Cut], list[Cut]]] = {}

    def __repr__(self) -> str:
        return f"SlicedLayer({self.name!r}, rate={self.rate.peak:g})"

    @property
    def dense_because(self) -> str | None:
        """``""``: it is sliced. None where the first batch has yet to decide about the layer inside."""
        return None if self.inner is not None and self.inner.dense_because is None else ""

    @dense_because.setter
    def dense_because(self, reason: str | None) -> None:
        if self.inner is not None:
            self.inner.dense_because = reason

    @property
    def active(self) -> bool:
        """Whether anything is cut off now."""
        return any(each.active for each in self.slices.values())

    def acts(self, training: bool) -> bool:
        """Whether it computes anything but the plain product now, or has yet to see the batch that decides it.

        Args:
            training: whether the module that calls the product is in training mode.
        """
        return self.active or (self.inner is not None and self.inner.acts(training))

    @property
    def alone(self) -> SlicedLayer:
        """The same without the layer inside: for a layer in eval mode in a model whose groups are sliced."""
        if self.inner is None:
            return self
        assert isinstance(self.rate, SliceRate)
        return SlicedLayer(
            self.name, rate=self.rate, out=self.out, inp=self.inp, groups=self.groups, slices=self.slices,
            scaled=self.scaled,
        )  # fmt: skip

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``F.linear`` with the slices of ``weight`` ``(out, in)`` and ``bias`` ``(out,)``."""
        weight, bias, _ = self._cut(weight, bias, 1, False)
        return (F.linear if self.inner is None else self.inner.linear)(input, weight, bias)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        transposed: bool = False,
        output_padding: Any = 0,
    ) -> Tensor:
        """``F.conv*d`` or ``F.conv_transpose*d`` with the slices of weight, bias and groups."""
        weight, bias, groups = self._cut(weight, bias, groups, transposed)
        function = plain_conv if self.inner is None else self.inner.conv
        return function(
            input, weight, bias, stride, padding, dilation, groups, transposed=transposed, output_padding=output_padding
        )

    def _cut(
        self, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool
    ) -> tuple[Tensor, Tensor | None, int]:
        """Returns weight, bias and the number of groups, cut to the slices in force."""
        if not self.active:
            return weight, bias, groups
        name = f"the weight of {self.name or 'the model'}"
        if self.groups is not None and full_size(self.groups) != groups:
            raise ValueError(
                f"{self.name} has {groups} groups, and had {full_size(self.groups)} when the model was optimized: "
                "restore it, then optimize it again"
            )
        first_cut, second_cut, bias_cut = self._cuts(groups, transposed, weight.shape[0], bias)
        small = take(weight, first_cut + second_cut, name=name)
        if self.scaled:
            small = rescale(small, first_cut if transposed or self.groups is not None else [])
            small = rescale(small, [] if transposed else second_cut)
        if bias is not None:
            bias = take(bias, bias_cut, name=f"the bias of {self.name}")
        return small, bias, groups if self.groups is None else size_now(self.groups, self.slices)

    def _cuts(
        self, groups: int, transposed: bool, rows: int, bias: Tensor | None
    ) -> tuple[list[Cut], list[Cut], list[Cut]]:
        """Returns how the weight's dimensions 0 and 1 and the bias are cut."""
        key = (groups, transposed, rows, None if bias is None else bias.shape[0])
        known = None if torch.compiler.is_compiling() else self._known_cuts.get(key)
        if known is not None:
            return known
        # Dimension 0 of a weight holds the channels of all groups, dimension 1 those of one.
        first, second = (self.inp, self.out) if transposed else (self.out, self.inp)
        first = over_groups(first, self.groups, groups, rows)
        out = None if bias is None else over_groups(self.out, self.groups, groups, bias.shape[0])
        found = (
            [] if first is None else [Cut(0, first, self.slices)],
            [] if second is None else [Cut(1, second, self.slices)],
            [] if out is None else [Cut(0, out, self.slices)],
        )
        if not torch.compiler.is_compiling():
            self._known_cuts[key] = found
        return found

    def shares(self, rate: float) -> tuple[float, float]:
        """Returns which share of the output and of the input channels is in force at a rate.

        Their product is the share of the product's FLOPs: groups that are sliced count once, with the output.
        """
        out, inp = self._shares(rate)
        return float(out), float(inp)

    def _shares(self, rate: float) -> tuple[Fraction, Fraction]:
        if self.groups is not None:
            taken = {segment.group for segment in self.groups}
            out, inp = (
                Fraction(1) if any(s.group and s.group in taken for s in layout or ()) else self._share(layout, rate)
                for layout in (self.out, self.inp)
            )
            return self._share(self.groups, rate) * out, inp
        return self._share(self.out, rate), self._share(self.inp, rate)

    def _share(self, layout: Layout | None, rate: float) -> Fraction:
        kept = total = 0
        for segment in layout or ():
            found = self.slices.get(segment.group)
            width = segment.size
            if found is not None and rate != 0:
                width = segment.outer * found.width_at(rate) * segment.inner
            kept, total = kept + width, total + segment.size
        return Fraction(kept, total) if total else Fraction(1)

    def cost(self, plain: Flops, rate: float, channels: int | None = None, mix: Mix | None = None) -> Flops:
        """Returns the FLOPs of a call at a rate, given those of the plain call.

        Args:
            plain: of the plain call.
            rate: SliceOut's rate.
            channels: output channels of this call, per group, where they are not the layer's.
            mix: share of the steps at each rate of the layer inside; by default one round of its schedule.
        """
        out, inp = self._shares(rate)
        share = out * inp
        small = Flops(*(int(f * share) for f in (plain.forward, plain.grad_input, plain.grad_weight, plain.recomputed)))
        if self.inner is None:
            return small
        if channels is None:
            channels = getattr(self.inner, "channels", None)
        if channels is not None and self.groups is None:
            channels = max(int(channels * out), 1)
        parts = [
            (self.inner.cost(small, value, channels), weight) for value, weight in (mix or self.inner.rate.mix).items()
        ]
        return Flops(
            *(
                round(sum(getattr(flops, field) * weight for flops, weight in parts))
                for field in ("forward", "grad_input", "grad_weight", "recomputed")
            )
        )


def over_groups(inside: Layout | None, groups: Layout | None, count: int, size: int) -> Layout | None:
    """Returns the layout of the channels of all groups of a convolution, group after group.

    Args:
        inside: the channels of one group, or of all; None where these stay whole.
        groups: the groups; None where all of them stay.
        count: how many there are.
        size: channels of all groups.
    """
    if inside is None and groups is None:
        return None
    if count == 1 or (inside is not None and full_size(inside) == size):
        return inside
    each = size // count
    if groups is not None:
        assert inside is None, "sliced by the group and within groups"
        return tuple(replace(s, size=s.size * each, inner=s.inner * each) for s in groups)
    assert inside is not None
    if len(inside) == 1:
        (only,) = inside
        return (replace(only, size=only.size * count, outer=only.outer * count),)
    return inside * count
