"""The pass: which products it takes, what it puts in their place, and what they cost then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import fx, nn

from ecograph.analysis.sites import Site
from ecograph.capture.inputs import device_of
from ecograph.cost.flops import Flops
from ecograph.cost.pays import prices, product_call
from ecograph.passes.sparse_backward.config import Options
from ecograph.passes.sparse_backward.conv import sparse_conv
from ecograph.passes.sparse_backward.keep import kept_channels, sparse_cost
from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.passes.sparse_backward.linear import sparse_linear
from ecograph.passes.sparse_backward.modules import REPLACEMENTS
from ecograph.passes.sparse_backward.pays import sparse_verdict
from ecograph.rewrite.functions import per_dimension
from ecograph.schedule import Rate

if TYPE_CHECKING:
    from ecograph.loop import Program


class SparseBackward(Options):
    """Compute the backward of convolutions and linear layers with the strongest output channels only (ssProp).

    The forward is dense. In the backward of each layer, the output channels with the largest mean ``|grad_output|``
    over the batch are kept, all gradients are computed from those alone, and the rest of grad_weight is zero.

    Args:
        drop: share of output channels dropped, from 0 to below 1, where the schedule is at its peak.
        schedule: ``"alternate"`` (dense and sparse in turn, dense first), ``"constant"``, ``"linear"``, ``"cosine"``
            or ``"bar"`` (dense, then sparse from half-time). :class:`ecograph.Scheduler` runs it by epoch; without
            one it runs by iteration.
        select: ``"topk"`` by score, or ``"random"`` channels.
        unbiased: with ``"random"``: scale by 1 / keep, so that the expected gradient is the dense one.
        grads: which gradients are sparse: ``("input", "weight")``, ``("input",)`` or ``("weight",)``.
        align: keep a multiple of this many channels (rounded up).
        min_channels: layers with fewer output channels (per group) stay dense.
        filter_fn: ``(module, name) -> bool``: only layers for which it says True. ``module`` owns the weight.
        skip_first: layers that no other product comes before stay dense.
        skip_last: layers that no other product comes after, such as a classifier head, stay dense.
        when: ``"pays"``: only where the saving exceeds the overhead; ``"always"``.

    Raises:
        ValueError: for an option out of range, with the fix.

    Source: ssProp, arXiv 2408.12561. The README beside this file says what is the paper's and what is ours.
    """

    replacements: ClassVar[Mapping[type[nn.Module], type[nn.Module]]] = REPLACEMENTS
    attribute: ClassVar[str] = "sparse"

    def make_rate(self) -> Rate:
        """Returns the drop rate that all layers of one application share."""
        return Rate(self.drop, self.schedule)

    def match(self, sites: Sequence[Site], model: nn.Module) -> list[str | None]:
        """Returns for each site why it stays dense; ``""`` to make it sparse, None to let the first batch decide.

        Raises:
            ValueError: where ``filter_fn`` says no to every layer.
        """
        allowed = [self._filtered(site, model) for site in sites]
        if sites and not any(allowed):
            names = ", ".join(site.name for site in sites[:3])
            raise ValueError(f"filter_fn matches none of the {len(sites)} layers ({names}, ...): change it or leave it")
        return [self._verdict(site, model) if ok else "filter_fn" for site, ok in zip(sites, allowed, strict=True)]

    def _filtered(self, site: Site, model: nn.Module) -> bool:
        if self.filter_fn is None:
            return True
        owner = site.parameters[-1].rpartition(".")[0].removesuffix(".parametrizations.weight")
        return bool(self.filter_fn(model.get_submodule(owner), site.name))

    def _verdict(self, site: Site, model: nn.Module) -> str | None:
        if self.drop == 0:
            return "drop is 0"
        if site.first and self.skip_first:
            return "first layer (skip_first)"
        if site.last and self.skip_last:
            return "last layer (skip_last)"
        if not any(site.needs_grad):
            return "frozen: needs no gradient"
        channels = site.out_channels
        if channels is None:
            return "the weight's shape is unknown"
        per_group = channels // site.groups
        if site.kind == "conv" and per_group == 1:
            return "depthwise: one output channel per group"
        if per_group < self.min_channels:
            return f"{per_group} output channels, fewer than min_channels={self.min_channels}"
        if kept_channels(per_group, self.drop, self.align) == per_group:
            return f"keeps all {per_group} channels at this drop and align={self.align}"
        if self.when == "always":
            return ""
        call = product_call(site, model)
        if call is None:
            return None
        inp, out = site.shares  # of a slice, where one is taken
        verdict = sparse_verdict(
            call.sliced(inp, out),
            kept_channels(max(round(per_group * out), 1), self.drop, self.align),
            prices(getattr(device_of(model), "type", "cpu")),
            grads=("input" in self.grads, "weight" in self.grads),
            random=self.select == "random",
            unbiased=self.unbiased,
        )
        return verdict.why_not

    def rewrite(self, graph: fx.Graph, site: Site) -> fx.Node:
        """Replaces the product's node by ``sparse_conv`` or ``sparse_linear`` at the peak drop rate."""
        product, node = site.product, site.node
        assert product.signature is not None and site.out_channels is not None
        arguments = product.arguments
        bias = arguments.get(product.signature.bias) if product.signature.bias else None
        weight: Any = product.weight
        channels = round(site.out_channels // site.groups * site.shares[1])  # of a slice, where one is taken
        options: dict[str, Any] = {"keep": kept_channels(channels, self.drop, self.align)}
        if set(self.grads) != {"input", "weight"}:
            options["grads"] = ("input" in self.grads, "weight" in self.grads)
        if self.select == "random":
            options |= {"random": True, "unbiased": self.unbiased}
        geometry: dict[str, Any] = {}
        if site.kind == "conv":
            dims = product.signature.dims
            defaults = {"stride": 1, "padding": 0, "dilation": 1}
            geometry = {k: arguments.get(k, default) for k, default in defaults.items()}
            geometry = {k: v if isinstance(v, str) else per_dimension(v, dims) for k, v in geometry.items()}
            if site.groups > 1:
                geometry["groups"] = site.groups
            if site.transposed:
                output_padding = per_dimension(arguments.get("output_padding", 0), dims)
                geometry |= {"transposed": True, "output_padding": output_padding}
        elif site.transposed:
            with graph.inserting_before(node):
                weight = graph.call_method("t", (weight,))
            weight.meta = dict(product.weight.meta)
        # The node stays, with its name and its users, so that the graph before and after differ in this line alone.
        node.op, node.target = "call_function", sparse_linear if site.kind == "linear" else sparse_conv
        node.args, node.kwargs = (product.input, weight, bias), geometry | options
        return node

    def cost(self, site: Site, plain: Flops, rate: float) -> Flops:
        """Returns the FLOPs of a site at a drop rate: the sparse gradients shrink to the kept channels."""
        grads = ("input" in self.grads, "weight" in self.grads)
        return sparse_cost(plain, self._channels(site), rate, grads, self.align)

    def layer(self, site: Site, rate: Rate, dense_because: str | None) -> SparseLayer:
        """Returns the run-time object for a layer."""
        return SparseLayer(
            site.name,
            rate,
            channels=self._channels(site),
            grads=self.grads,
            random=self.select == "random",
            unbiased=self.unbiased,
            align=self.align,
            dense_because=dense_because,
        )

    def kept(self, channels: int, rate: float) -> int:
        """Returns how many of ``channels`` (of one group) the backward keeps at a drop rate."""
        return kept_channels(channels, rate, self.align)

    def insert(self, program: Program) -> None:
        """Adds the schedule of the drop rate to a generated training loop."""
        from ecograph.loop import insert_scheduler

        insert_scheduler(program)

    @staticmethod
    def _channels(site: Site) -> int:
        assert site.out_channels is not None
        return site.out_channels // site.groups
