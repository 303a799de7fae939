"""The pass: which channel groups it slices, what it puts in the place of their layers, and what the graph shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ecograph.analysis.channels import Group
from ecograph.analysis.layout import Layout, is_sliced
from ecograph.capture.inputs import device_of
from ecograph.cost.pays import prices
from ecograph.passes.sliceout.config import Options
from ecograph.passes.sliceout.draws import SliceRate
from ecograph.passes.sliceout.graph import put_slices
from ecograph.passes.sliceout.group_slice import GroupSlice
from ecograph.passes.sliceout.layer import SlicedLayer
from ecograph.passes.sliceout.modules import REPLACEMENTS
from ecograph.passes.sliceout.norm import SlicedNorm, sliced_batch_norm
from ecograph.passes.sliceout.pays import group_verdicts
from ecograph.passes.sliceout.take import Cut, take
from ecograph.passes.sliceout.widths import kept_units
from ecograph.rewrite.calls import Sizes
from ecograph.rewrite.passes import NormChoice
from ecograph.rewrite.slicing import ProductCut, Slicing

if TYPE_CHECKING:
    from ecograph.loop import Program
    from ecograph.rewrite.passes import Plan
    from ecograph.schedule import Rate


BATCH_NORMS = (
    "batch norms see slices in training, so their running statistics are not quite the full network's: end with full "
    "epochs, ecograph.Scheduler(..., tail=1), or after ecograph.restore(model) let torch.optim.swa_utils.update_bn "
    "estimate them anew"
)


class SliceOut(Options):
    """Train on a contiguous slice of every hidden width: structured dropout that makes each step smaller (SliceOut).

    The channel groups of the model are found from its graph: the hidden width of an MLP, the heads of an attention, the
    inner width of a bottleneck. In training, each step draws one slice per group for the whole mini-batch, and forward
    and backward run on the sliced weights. In eval mode the full network runs.

    Args:
        rate: share of a group's units that is dropped, from 0 to below 1, where the schedule is at its peak.
        normalization: ``"flow"``: what a layer takes in is scaled by full width / slice. ``"probability"``: each unit
            by one over the probability that it is kept.
        starts: where slices may begin. ``"grid"``: evenly spaced, about half a slice apart; ``"blocks"``: side by side;
            ``"any"``: at every unit.
        align: a slice's elements are a multiple of this.
        min_width: groups with fewer elements stay whole.
        max_scale: the most that ``"probability"`` scales a unit by.
        schedule: as for :class:`~ecograph.passes.SparseBackward`; by default the rate is constant.
        update: what happens to the rows outside the slice in an optimizer step. ``"autograd"``: their gradient is zero;
            momentum and weight decay act on them as on any parameter. ``"slice"``: the optimizer leaves them alone.
        when: ``"pays"``: only groups whose layers save more time than slicing costs; ``"always"``.
        seed: of the draws. The slice of a step depends on seed, step and group alone.
        filter_fn: ``(module, name) -> bool``: only groups all of whose layers it says True to. ``module`` is the layer.

    Raises:
        ValueError: for an option out of range, with the fix.

    Source: SliceOut, arXiv 2007.10909. The README beside this file says what is the paper's and what is ours.
    """

    replacements: ClassVar[Mapping[type[nn.Module], type[nn.Module]]] = REPLACEMENTS
    attribute: ClassVar[str] = "sliced"

    def make_rate(self) -> SliceRate:
        """Returns the rate that all groups of one application share; it also draws their slices."""
        return SliceRate(self.rate, self.schedule, self.seed)

    def choose(self, groups: Sequence[Group], model: nn.Module, slicing: Slicing) -> list[str]:
        """Returns for each group why it stays whole, ``""`` to slice it.

        Raises:
            ValueError: where ``filter_fn`` says no to every group.
        """
        allowed = [self._filtered(group, model) for group in groups]
        if groups and not any(allowed):
            names = ", ".join(group.name for group in groups[:3])
            raise ValueError(
                f"filter_fn matches none of the {len(groups)} groups ({names}, ...): change it or leave it"
            )
        verdicts = [self._verdict(group) if ok else "filter_fn" for group, ok in zip(groups, allowed, strict=True)]
        if self.when == "always":
            return verdicts
        on = prices(getattr(device_of(model), "type", "cpu"))
        rate = SliceRate(self.rate, "constant", self.seed)
        rate.without_data()
        asked = [group for group, verdict in zip(groups, verdicts, strict=True) if not verdict]
        found = group_verdicts(asked, self._slices(asked, rate, None), slicing, model, on)
        return [
            verdict or (found[group.name].why_not if group.name in found else "")
            for group, verdict in zip(groups, verdicts, strict=True)
        ]

    def _filtered(self, group: Group, model: nn.Module) -> bool:
        if self.filter_fn is None:
            return True
        for site in (*group.producers, *group.consumers):
            owner = site.parameters[-1].rpartition(".")[0].removesuffix(".parametrizations.weight")
            if not self.filter_fn(model.get_submodule(owner), site.name):
                return False
        return True

    def _verdict(self, group: Group) -> str:
        if self.rate == 0:
            return "rate is 0"
        if group.width < self.min_width:
            return f"{group.width} wide, less than min_width={self.min_width}"
        width = kept_units(group.units, group.inner, self.rate, self.align)
        if width == 0 and group.width < self.align:
            return f"{group.width} wide, narrower than align={self.align}"
        if width == 0:
            return f"rate={self.rate:g} leaves none of its {group.units} units: make the rate smaller"
        if width == group.units:
            return f"keeps all {group.units} units at this rate and align={self.align}"
        return ""

    def shares(self, cut: ProductCut, groups: Sequence[Group]) -> tuple[float, float]:
        """Returns which shares of its input and output channels a product keeps at the peak rate."""
        rate = SliceRate(self.rate, "constant", self.seed)
        out, inp = self._layer(cut, self._slices(groups, rate, None), rate).shares(self.rate)
        return inp, out

    def carry_out(self, made: Plan, slicing: Slicing, groups: Sequence[Group], rate: Rate, model: nn.Module) -> None:
        """Puts sliced layers, norms and calls into the plan."""
        assert isinstance(rate, SliceRate)
        slices = self._slices(groups, rate, model)
        for group_choice in made.sliced:
            group_choice.slice = slices[group_choice.group.name]
        layers: dict[tuple[str, tuple[str, ...]], SlicedLayer] = {}
        for choice in made.choices:
            cut = slicing.products.get(choice.site.node)
            if cut is None:
                continue
            key = (choice.site.module, choice.site.parameters)
            if key not in layers:
                layers[key] = self._layer(cut, slices, rate, choice.layer)
            choice.names = (self.name, *choice.names)
            choice.pass_, choice.layer, choice.reason = self, layers[key], ""
        seen: set[str] = set()
        for norm in slicing.norms:
            if norm.module in seen:  # a module that is called twice is one norm
                continue
            seen.add(norm.module)
            scale_of = slices[norm.scale] if self._cancels(norm.scale) else None
            if not is_sliced(norm.channels) and scale_of is None:
                continue
            cuts = [Cut(0, norm.channels, slices)] if is_sliced(norm.channels) else []
            gain_of = slices[norm.gain] if self._cancels(norm.gain) else None
            routed = RoutedNorm(norm.module, cuts=cuts, scale_of=scale_of, gain_of=gain_of)
            made.norms.append(NormChoice(norm, routed, self))
        made.cuts = [(tensor, _Taken(tuple(_cuts(tensor.layouts, slices)))) for tensor in slicing.tensors]
        made.sizes = [(change, Sizes(change, _concerned(change.layouts, slices))) for change in slicing.sizes]
        if any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules()):
            made.notes.append(BATCH_NORMS)
        if self.update == "slice":
            self._restrict_updates(slicing, slices, rate, model)

    def _slices(self, groups: Sequence[Group], rate: SliceRate, model: nn.Module | None) -> dict[str, GroupSlice]:
        anchors = [None if model is None else model.get_submodule(group.producers[0].module) for group in groups]
        return {
            group.name: self.group_slice(group.name, group.units, group.inner, rate, anchor)
            for group, anchor in zip(groups, anchors, strict=True)
        }

    def group_slice(
        self, name: str, units: int, inner: int, rate: SliceRate, anchor: nn.Module | None = None
    ) -> GroupSlice:
        """Returns the slice of one group; see :class:`~.group_slice.GroupSlice`."""
        return GroupSlice(
            name,
            units,
            inner,
            rate,
            anchor=anchor,
            align=self.align,
            starts=self.starts,
            normalization=self.normalization,
            max_scale=self.max_scale,
        )

    def why_not_exported(self) -> str:
        """Returns why a graph of ONNX cannot do what these options ask for, and what to give; ``""`` where it can."""
        if self.update != "autograd":
            return f"update={self.update!r} cannot be exported: give update='autograd'"
        if self.schedule in ("linear", "cosine"):
            return f"schedule={self.schedule!r} takes many widths, and a graph has one: give 'constant' or 'alternate'"
        return ""

    def _layer(
        self, cut: ProductCut, slices: Mapping[str, GroupSlice], rate: SliceRate, inner: Any = None
    ) -> SlicedLayer:
        return SlicedLayer(
            cut.site.name,
            rate=rate,
            out=cut.out,
            inp=cut.inp,
            groups=cut.groups or None,
            slices=_concerned((cut.out, cut.inp, cut.groups), slices),
            scaled=is_sliced(cut.inp) and not self._cancels(cut.unscaled or cut.carried),
            inner=inner,
        )

    def _cancels(self, group: str) -> bool:
        """Whether a batch norm takes out or carries this group's scale, which must then be one for all units."""
        return bool(group) and self.normalization == "flow"

    def _restrict_updates(
        self, slicing: Slicing, slices: Mapping[str, GroupSlice], rate: SliceRate, model: nn.Module
    ) -> None:
        from ecograph.passes.sliceout.restrict import cut_parameters
        from ecograph.passes.sliceout.update import attach

        parameters, places = cut_parameters(slicing, slices, model)
        attach(parameters, rate, places)

    def rewrite_slices(self, slicing: Slicing, groups: Sequence[Group], rate: Rate) -> None:
        """Puts the slices of this moment's draw into the captured graphs, at the peak rate."""
        assert isinstance(rate, SliceRate)
        at_peak = SliceRate(rate.peak, "constant", self.seed)
        slices = self._slices(groups, at_peak, None)
        at_peak.move_to(int(rate.step))
        layers = {node: self._layer(cut, slices, at_peak) for node, cut in slicing.products.items()}
        norms = {norm.node: norm for norm in slicing.norms if is_sliced(norm.channels) or self._cancels(norm.scale)}
        unscaled = {norm.node: slices[norm.scale] for norm in norms.values() if self._cancels(norm.scale)}
        gains = {norm.node: slices[norm.gain] for norm in norms.values() if self._cancels(norm.gain)}
        put_slices(slicing, slices, layers, norms, unscaled, gains)

    def insert(self, program: Program) -> None:
        """Adds the slices' schedule to a generated training loop."""
        from ecograph.loop import insert_scheduler

        insert_scheduler(program)


class RoutedNorm(SlicedNorm):
    """A sliced batch norm that also stands for ``F.batch_norm`` in a custom module's forward."""

    @property
    def slices(self) -> dict[str, GroupSlice]:
        """The groups concerned."""
        found = {name: each for cut in self.cuts for name, each in _concerned((cut.layout,), cut.slices).items()}
        return found if self.scale_of is None else {**found, self.scale_of.name: self.scale_of}

    def __call__(
        self,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Computes ``F.batch_norm`` on the slices in force."""
        return sliced_batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps,
            cuts=self.cuts, scale=self.scale(), gain=self.gain(), name=self.name,
        )  # fmt: skip


class _Taken:
    """Cuts one tensor. An object, and not a lambda, so that models can be pickled."""

    def __init__(self, cuts: tuple[Cut, ...]) -> None:
        self.cuts = cuts

    @property
    def slices(self) -> dict[str, GroupSlice]:
        """The groups concerned."""
        return {name: found for cut in self.cuts for name, found in _concerned((cut.layout,), cut.slices).items()}

    def __call__(self, tensor: Tensor) -> Tensor:
        return take(tensor, self.cuts)


def _cuts(layouts: Sequence[Layout], slices: Mapping[str, GroupSlice]) -> list[Cut]:
    return [Cut(dim, layout, slices) for dim, layout in enumerate(layouts) if is_sliced(layout)]


def _concerned(layouts: Sequence[Layout], slices: Mapping[str, GroupSlice]) -> dict[str, GroupSlice]:
    return {s.group: slices[s.group] for layout in layouts for s in layout if s.group}


