"""What a pass is, and what several of them together decide about a model.

A pass is data: a small frozen dataclass whose fields are its options. It looks at sites and says which it takes; it
changes a graph; it says what a site costs afterwards; and it provides the object that computes the site at run time.
Nothing in here knows any particular pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, fx, nn

from ecograph.analysis.sites import Site
from ecograph.cost.flops import Flops
from ecograph.schedule import Rate


class Layer(Protocol):
    """What a pass puts in a site's place: computes the product at run time."""

    rate: Rate
    dense_because: str | None

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


@dataclass(eq=False)
class Choice:
    """What was decided about one site."""

    site: Site
    pass_: Pass | None = None
    reason: str = ""
    layer: Layer | None = None


@dataclass
class Plan:
    """What a sequence of passes decided about the sites of a model.

    Attributes:
        passes: in order.
        rates: one for each pass.
        choices: one for each site.
    """

    passes: tuple[Pass, ...]
    rates: list[Rate] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    @property
    def rewritten(self) -> list[Choice]:
        """The choices that change something."""
        return [choice for choice in self.choices if choice.layer is not None]


def plan(passes: Sequence[Pass], sites: Sequence[Site], model: nn.Module, skip: Sequence[str] = ()) -> Plan:
    """Asks each pass about each site, and decides once per layer.

    A layer that is called several times is rewritten only where every call may be. The first pass that takes a layer
    has it.

    Args:
        passes: in order.
        sites: every site of the model.
        model: for the passes' filters.
        skip: layers, or modules with all layers inside, to leave alone.
    """
    made = Plan(tuple(passes), [p.make_rate() for p in passes], [Choice(site) for site in sites])
    for choice in made.choices:
        choice.reason = choice.site.problem
        if any(_inside(choice.site, name) for name in skip):
            choice.reason = "named in skip"
    candidates = [choice for choice in made.choices if not choice.reason]
    for pass_, rate in zip(made.passes, made.rates, strict=True):
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
                choice.pass_, choice.layer, choice.reason = pass_, layer, ""
    return made


def _inside(site: Site, name: str) -> bool:
    return any(own == name or own.startswith(f"{name}.") for own in (site.name, site.module, *site.parameters))


def _by_layer(choices: Sequence[Choice]) -> list[list[Choice]]:
    """Groups the calls of one layer: same module, same weight."""
    groups: dict[tuple[str, tuple[str, ...]], list[Choice]] = {}
    for choice in choices:
        groups.setdefault((choice.site.module, choice.site.parameters), []).append(choice)
    return list(groups.values())


def rewrite_graphs(made: Plan) -> None:
    """Carries the plan out on the captured graphs."""
    for choice in made.rewritten:
        assert choice.pass_ is not None
        graph = choice.site.graph.module.graph
        choice.site.node = choice.pass_.rewrite(graph, choice.site)
    for module in {id(c.site.graph.module): c.site.graph.module for c in made.rewritten}.values():
        module.graph.lint()
        module.recompile()
