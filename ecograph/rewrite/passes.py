"""What a pass is, and what several of them together decide about a model.

A pass is data: a small frozen dataclass whose fields are its options. It looks at sites and says which it takes; it
changes a graph; it says what a site costs afterwards; and it provides the object that computes the site at run time.
Nothing in here knows any particular pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, fx, nn

from ecograph.analysis.channels import Channels, Group, find_channels
from ecograph.analysis.sites import Site
from ecograph.capture.graph import Capture, Graph
from ecograph.cost.flops import Flops
from ecograph.rewrite.scales import carry_on_norms
from ecograph.rewrite.slicing import NormCut, ProductCut, SizeChange, Slicing, TensorCut, find_slicing, unsupported
from ecograph.schedule import Rate

if TYPE_CHECKING:
    from ecograph.rewrite.calls import Cutter, Sizes


class Layer(Protocol):
    """What a pass puts in a site's place: computes the product at run time."""

    rate: Rate
    dense_because: str | None

    def acts(self, training: bool) -> bool:
        """Whether it computes anything but the plain product now, or has yet to see the batch that decides it.

        Args:
            training: whether the module that calls the product is in training mode.
        """
        ...

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Computes a linear product; ``weight`` is ``(out, in)`` in any memory layout."""
        ...

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """Computes a convolution, with the arguments of ``F.conv2d`` and its relatives."""
        ...

    def cost(self, plain: Flops, rate: float, channels: int | None = None) -> Flops:
        """Returns the FLOPs of a call at ``rate``, given those of the plain call and its output channels."""
        ...


@runtime_checkable
class Pass(Protocol):
    """A rewriting of the model's graph.

    Attributes:
        name: its name in the registry.
        numerics: ``"exact"`` or ``"approximate"``.
        source: the paper.
        replacements: for plain torch.nn layers, the class that takes the layer's place.
        attribute: the attribute of a replaced layer that holds its :class:`Layer`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def numerics(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def replacements(self) -> Mapping[type[nn.Module], type[nn.Module]]: ...  # noqa: D102
    @property
    def attribute(self) -> str: ...  # noqa: D102

    def to_dict(self) -> dict[str, Any]:
        """Returns name and options as JSON types."""
        ...

    def make_rate(self) -> Rate:
        """Returns the rate that all layers of one application share."""
        ...

    def match(self, sites: Sequence[Site], model: nn.Module) -> list[str | None]:
        """Returns for each site why it is left alone; ``""`` to rewrite it, None to let the first batch decide."""
        ...

    def rewrite(self, graph: fx.Graph, site: Site) -> fx.Node:
        """Replaces the site's node by the rewritten product and returns the new node."""
        ...

    def cost(self, site: Site, plain: Flops, rate: float) -> Flops:
        """Returns what the site costs at ``rate``, given what it costs plain."""
        ...

    def layer(self, site: Site, rate: Rate, dense_because: str | None) -> Layer:
        """Returns the run-time object for a layer."""
        ...


@runtime_checkable
class GroupPass(Protocol):
    """A rewriting of whole channel groups: every layer of a group computes with a slice of it.

    Attributes:
        name: its name in the registry.
        numerics: ``"exact"`` or ``"approximate"``.
        source: the paper.
        replacements: for plain torch.nn layers, the class that takes the layer's place.
        attribute: the attribute of a replaced layer that holds what computes it.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def numerics(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def replacements(self) -> Mapping[type[nn.Module], type[nn.Module]]: ...  # noqa: D102
    @property
    def attribute(self) -> str: ...  # noqa: D102

    def to_dict(self) -> dict[str, Any]:
        """Returns name and options as JSON types."""
        ...

    def make_rate(self) -> Rate:
        """Returns the rate that all groups of one application share."""
        ...

    def choose(self, groups: Sequence[Group], model: nn.Module, slicing: Slicing) -> list[str]:
        """Returns for each group why it stays whole, ``""`` to slice it.

        Args:
            groups: the groups that it may slice.
            model: for filters.
            slicing: every call that slicing all groups would change.
        """
        ...

    def shares(self, cut: ProductCut, groups: Sequence[Group]) -> tuple[float, float]:
        """Returns which shares of its input and output channels a product keeps where the pass acts in full."""
        ...

    def carry_out(self, made: Plan, slicing: Slicing, groups: Sequence[Group], rate: Rate, model: nn.Module) -> None:
        """Puts what computes the slices into the plan: the choices' layers, ``norms``, ``cuts`` and ``sizes``."""
        ...

    def rewrite_slices(self, slicing: Slicing, groups: Sequence[Group], rate: Rate) -> None:
        """Puts the slices into the captured graphs, as they are at this moment."""
        ...


@dataclass(eq=False)
class Choice:
    """What was decided about one site.

    Attributes:
        site: the site.
        pass_: the pass that computes it; of several, the outermost.
        reason: why it is left alone, or "".
        layer: what computes it.
        names: of all passes that take part.
    """

    site: Site
    pass_: Pass | GroupPass | None = None
    reason: str = ""
    layer: Layer | None = None
    names: tuple[str, ...] = ()


@dataclass(eq=False)
class GroupChoice:
    """What was decided about one channel group.

    Attributes:
        group: the group.
        pass_: the pass that slices it, or None.
        reason: why it stays whole, or "".
        slice: what is in force on it at run time.
    """

    group: Group
    pass_: GroupPass | None = None
    reason: str = ""
    slice: Any = None


@dataclass(eq=False)
class NormChoice:
    """A batch norm that is computed in another way.

    Attributes:
        cut: where, and on which channels.
        norm: what computes it.
        pass_: the pass.
    """

    cut: NormCut
    norm: Any
    pass_: GroupPass


@dataclass
class Plan:
    """What a sequence of passes decided about the sites and groups of a model.

    Attributes:
        passes: in order.
        rates: one for each pass.
        choices: one for each site.
        groups: one for each channel group that a pass was asked about.
        channels: all groups, and what stopped the others; None where no pass asked.
        norms: batch norms that are computed in another way.
        cuts: parameters and buffers that other calls read, with what cuts them.
        sizes: calls that spell out sizes, with what changes them.
        slicing: every call that slicing the groups changes.
        notes: what the user should know about how to train now.
    """

    passes: tuple[Pass | GroupPass, ...]
    rates: list[Rate] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    groups: list[GroupChoice] = field(default_factory=list)
    channels: Channels | None = None
    norms: list[NormChoice] = field(default_factory=list)
    cuts: list[tuple[TensorCut, Cutter]] = field(default_factory=list)
    sizes: list[tuple[SizeChange, Sizes]] = field(default_factory=list)
    slicing: Slicing | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def rewritten(self) -> list[Choice]:
        """The choices that change something."""
        return [choice for choice in self.choices if choice.layer is not None]

    @property
    def sliced(self) -> list[GroupChoice]:
        """The groups that are sliced."""
        return [choice for choice in self.groups if choice.pass_ is not None]


def plan(
    passes: Sequence[Pass | GroupPass],
    sites: Sequence[Site],
    model: nn.Module,
    skip: Sequence[str] = (),
    captured: Capture | None = None,
) -> Plan:
    """Asks each pass about each site, and decides once per layer.

    A layer that is called several times is rewritten only where every call may be. Of the passes that rewrite single
    products, the first that takes a layer has it; a pass that slices channel groups composes with it.

    Args:
        passes: in order.
        sites: every site of the model.
        model: for the passes' filters.
        skip: layers, or modules with all layers inside, to leave alone.
        captured: the graphs, for passes that slice channel groups.
    """
    made = Plan(tuple(passes), [p.make_rate() for p in passes], [Choice(site) for site in sites])
    for choice in made.choices:
        choice.reason = choice.site.problem
        if any(_inside(choice.site, name) for name in skip):
            choice.reason = "named in skip"
    # Groups first: what a pass on single products decides depends on how wide they are.
    wide = [(p, rate) for p, rate in zip(made.passes, made.rates, strict=True) if isinstance(p, GroupPass)]
    if len(wide) > 1:
        raise ValueError(f"passes {[p.name for p, _ in wide]} both slice channel groups: give one of them")
    if wide and captured is not None:
        made.channels = find_channels(captured, sites, model)
        made.slicing = _choose_groups(wide[0][0], made, captured, model, skip)
    _choose_sites(made, model)
    for pass_, rate in wide:
        if made.slicing is not None and made.sliced:
            pass_.carry_out(made, made.slicing, [choice.group for choice in made.sliced], rate, model)
    _say_why_whole(made)
    return made


def _say_why_whole(made: Plan) -> None:
    """Gives the sites that no pass had anything to say about the reason of their group."""
    if made.channels is None:
        return
    stopped = {stop.name: stop.reason for stop in made.channels.stopped}
    for choice in made.choices:
        if choice.layer is not None or choice.reason:
            continue
        groups = (g for g in made.groups if choice.site in (*g.group.producers, *g.group.consumers))
        why = next((group.reason for group in groups), stopped.get(choice.site.name, "no group passes through it"))
        choice.reason = f"in no group that is sliced: {why}"


def _choose_groups(
    pass_: GroupPass, made: Plan, captured: Capture, model: nn.Module, skip: Sequence[str]
) -> Slicing:
    """Decides which groups are sliced, and returns what that changes."""
    channels, sites = made.channels, [choice.site for choice in made.choices]
    assert channels is not None
    made.groups = [GroupChoice(group) for group in channels.groups]
    every = find_slicing(captured.graphs, channels, sites, model)
    refused = unsupported(every)
    for choice in made.groups:
        group = choice.group
        products = (*group.producers, *group.consumers)
        skipped = any(member == name or member.startswith(f"{name}.") for member in group.members for name in skip)
        skipped = skipped or any(_inside(site, name) for site in products for name in skip)
        choice.reason = "named in skip" if skipped else refused.get(choice.group.name, "")
    asked = [choice for choice in made.groups if not choice.reason]
    for choice, reason in zip(asked, pass_.choose([choice.group for choice in asked], model, every), strict=True):
        choice.reason = reason
        choice.pass_ = None if reason else pass_
    channels.keep([choice.group for choice in made.sliced])
    slicing = find_slicing(captured.graphs, channels, sites, model)
    carry_on_norms(slicing)
    for site in sites:
        cut = slicing.products.get(site.node)
        if cut is not None:
            site.shares = pass_.shares(cut, [group.group for group in made.sliced])
    return slicing


def _choose_sites(made: Plan, model: nn.Module) -> None:
    """Asks the passes that rewrite single products."""
    candidates = [choice for choice in made.choices if not choice.reason]
    for pass_, rate in zip(made.passes, made.rates, strict=True):
        if isinstance(pass_, GroupPass):
            continue
        open_choices = [choice for choice in candidates if choice.layer is None]
        verdicts = dict(zip(open_choices, pass_.match([c.site for c in open_choices], model), strict=True))
        for calls in _by_layer(open_choices):
            refused = [verdict for c in calls if (verdict := verdicts[c])]
            if refused:
                for choice in calls:
                    choice.reason = choice.reason or refused[0]
                continue
            undecided = any(verdicts[c] is None for c in calls)
            layer = pass_.layer(calls[0].site, rate, None if undecided else "")
            for choice in calls:
                choice.pass_, choice.layer, choice.reason, choice.names = pass_, layer, "", (pass_.name,)


def _inside(site: Site, name: str) -> bool:
    return any(own == name or own.startswith(f"{name}.") for own in (site.name, site.module, *site.parameters))


def _by_layer(choices: Sequence[Choice]) -> list[list[Choice]]:
    """Groups the calls of one layer: same module, same weight."""
    groups: dict[tuple[str, tuple[str, ...]], list[Choice]] = {}
    for choice in choices:
        groups.setdefault((choice.site.module, choice.site.parameters), []).append(choice)
    return list(groups.values())


def rewrite_graphs(made: Plan, captured: Capture) -> None:
    """Carries the plan out on the captured graphs."""
    products = {pass_.name: pass_ for pass_ in made.passes if isinstance(pass_, Pass)}
    for choice in made.rewritten:
        for name in choice.names:
            if name in products:
                choice.site.node = products[name].rewrite(choice.site.graph.module.graph, choice.site)
    for pass_, rate in zip(made.passes, made.rates, strict=True):
        if isinstance(pass_, GroupPass) and made.slicing is not None:
            pass_.rewrite_slices(made.slicing, [choice.group for choice in made.sliced], rate)
    for graph in captured.graphs:
        _recompile(graph)


def _recompile(graph: Graph) -> None:
    for calls in graph.nested.values():
        for nested in calls:
            _recompile(nested.graph)
    graph.module.graph.lint()
    graph.module.recompile()
