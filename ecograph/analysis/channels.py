"""Channel groups: sets of layer dimensions that must shrink together, found from the captured graphs.

The hidden width of an MLP is one group: the output features of its first layer, the input features of its second, and
all between. So are the heads of an attention, the inner width of a bottleneck with its batch norms, the expansion of
an inverted bottleneck with its depthwise convolution and squeeze-excite. A group is sliceable where every call that
its dimensions pass through has a rule that lets them pass (:mod:`ecograph.analysis.rules`), where a product makes it
and a product consumes it, and where it is no residual stream.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import fx, nn

from ecograph.analysis.dimensions import Dim, Dimensions, Equal, Fact, Part, Stop
from ecograph.analysis.layout import Layout, Segment
from ecograph.analysis.rules import facts_of
from ecograph.analysis.rules.call import Call, dims_of, function_name, size_of
from ecograph.analysis.rules.products import GROUPS, IN, OUT, is_weighted
from ecograph.analysis.sites import Site
from ecograph.capture.graph import BUFFER, OWN_BACKWARD, PARAMETER, Capture, Graph, Nested, example, module_path

#: A slice of a packed dimension is copied block by block; more blocks than this are a gather, not a slice.
MOST_BLOCKS = 8

INPUT = "it is an input of the graph"
OUTPUT = "it is an output of the graph"
CONSTANT = "it is a constant of the graph"


@dataclass(eq=False)
class Group:
    """Dimensions that shrink together.

    Attributes:
        name: that of the first layer that makes it.
        units: how many units it has: channels, heads, groups of a convolution.
        inner: elements per unit in the layer that gives the name.
        producers: the products whose output channels it is.
        consumers: the products whose input channels it is.
        members: names of all layers and tensors that belong to it, in execution order.
        activations: the nodes whose tensors it makes smaller.
    """

    name: str
    units: int
    inner: int
    producers: list[Site]
    consumers: list[Site]
    members: list[str]
    activations: list[fx.Node]
    parts: frozenset[Part] = field(repr=False, default=frozenset())

    @property
    def width(self) -> int:
        """Elements of its dimension in the layer that gives the name."""
        return self.units * self.inner


@dataclass(frozen=True)
class Stopped:
    """A layer whose output channels no group slices.

    Attributes:
        name: the layer.
        width: its output channels.
        reason: what stopped it.
    """

    name: str
    width: int
    reason: str


class Channels:
    """The channel groups of a model.

    Attributes:
        groups: in execution order of their first product.
        stopped: the layers whose output channels are in none, with the reasons.
    """

    def __init__(
        self, dimensions: Dimensions | None, groups: Sequence[Group] = (), stopped: Sequence[Stopped] = ()
    ) -> None:
        self._dimensions = dimensions
        self.groups = list(groups)
        self.stopped = list(stopped)

        self._owner = {part: group for group in self.groups for part in group.parts}

    def keep(self, groups: Sequence[Group]) -> None:
        """Makes layouts name these groups alone."""
        self._owner = {part: group for group in groups for part in group.parts}

    def layout(self, dim: Dim) -> Layout:
        """Returns how a dimension is made up, with the groups that slice it."""
        assert self._dimensions is not None
        segments = []
        for s, factors in enumerate(self._dimensions.structure[dim]):
            sliced = [f for f in range(len(factors)) if Part(dim, s, f) in self._owner]
            if sliced:
                (f,) = sliced
                group = self._owner[Part(dim, s, f)]
                outer, inner = math.prod(factors[:f]), math.prod(factors[f + 1 :])
                segments.append(Segment(math.prod(factors), group.name, outer, factors[f], inner))
            else:
                segments.append(Segment(math.prod(factors)))
        return tuple(segments)

    def layouts(self, node: fx.Node) -> tuple[Layout, ...]:
        """Returns the layouts of all dimensions of the tensor that a node gives."""
        return tuple(self.layout(dim) for dim in dims_of(node))

    def axis(self, node: fx.Node, name: str) -> Layout:
        """Returns the layout of a named axis of a call, such as the groups of a convolution."""
        return self.layout(Dim(node, name))


def find_channels(capture: Capture, sites: Sequence[Site], model: nn.Module) -> Channels:
    """Finds the channel groups of a model.

    Args:
        capture: what :func:`ecograph.capture.capture` returned, with example inputs.
        sites: every site of it.
        model: the model; only names are read.

    Returns:
        The groups; none where the graphs know no shapes.
    """
    if not capture.shapes:
        reason = "shapes are unknown: give example_inputs"
        return Channels(None, (), [Stopped(site.name, site.out_channels or 0, reason) for site in _layers(sites)])
    graphs = [graph for graph in capture.graphs if graph.shapes]
    by_node = {site.node: site for site in sites if site.graph.shapes}
    nodes = [node for graph in graphs for node in _nodes(graph)]
    sizes = {
        dim: size_of(dim)
        for node in nodes
        for dim in (*dims_of(node), *(d for i in range(_count(node)) for d in dims_of(node, i)))
    }
    facts: list[Fact] = []
    for graph in graphs:
        facts += _graph_facts(graph, by_node, sizes)
    facts += _shared_layers(list(by_node.values()))
    facts += _shared_tensors(nodes)
    channels = _Finder(Dimensions(sizes, facts), nodes, by_node).find()
    if getattr(getattr(model, "config", None), "use_cache", False):  # Hugging Face's decoders return keys and values
        hint = f"{OUTPUT} (the cache of keys and values is: set model.config.use_cache = False)"
        channels.stopped = [replace(s, reason=hint) if s.reason == OUTPUT else s for s in channels.stopped]
    for site in _layers([site for site in sites if not site.graph.shapes]):
        channels.stopped.append(Stopped(site.name, site.out_channels or 0, "it did not run with the example inputs"))
    return channels


def _layers(sites: Sequence[Site]) -> list[Site]:
    return list({(site.module, site.name): site for site in sites}.values())


def _nodes(graph: Graph) -> Iterator[fx.Node]:
    for node in graph.nodes:
        for nested in graph.nested.get(node, []):
            yield from _nodes(nested.graph)
        yield node


def _count(node: fx.Node) -> int:
    value = node.meta.get("example_value")
    return len(value) if isinstance(value, (tuple, list)) else 0


def _graph_facts(graph: Graph, sites: dict[fx.Node, Site], sizes: dict[Dim, int]) -> Iterator[Fact]:
    """Yields the facts about every node of a graph and of those nested in it."""
    for node in graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                yield Stop(tuple(_all_dims(source)), OUTPUT)
        elif node.op in ("placeholder", "get_attr"):
            if PARAMETER not in node.meta and BUFFER not in node.meta:
                yield Stop(tuple(_all_dims(node)), INPUT if node.op == "placeholder" else CONSTANT)
        elif node in graph.nested:
            for nested in graph.nested[node]:
                yield from _nested_facts(node, nested, sites, sizes)
        elif _is_derived_weight(node, sites):
            # The weight is cut where it is multiplied, so how it is made (standardized, say) does not matter.
            if not all(user in sites and sites[user].product.weight is node for user in node.users):
                yield Stop(tuple(dims_of(node)), "the weight is used for something else too")
        elif OWN_BACKWARD in node.meta:
            call = Call(node, function_name(node))
            stopped = [dim for tensor in (*call.tensors, node) for dim in _all_dims(tensor)]
            yield Stop(tuple(stopped), f"{call.where()} is part of an autograd.Function")
        else:
            call = Call(node, function_name(node))
            facts = list(facts_of(call, sites.get(node)))
            sizes.update(call.sizes)
            yield from facts


def _is_derived_weight(node: fx.Node, sites: dict[fx.Node, Site]) -> bool:
    users = [sites[user] for user in node.users if user in sites]
    return any(is_weighted(site) and site.product.weight is node for site in users)


def _nested_facts(
    caller: fx.Node, nested: Nested, sites: dict[fx.Node, Site], sizes: dict[Dim, int]
) -> Iterator[Fact]:
    """Yields the facts about a nested graph: a checkpointed region is as if it stood in place of the call."""
    plain = "checkpoint" in str(caller.target)
    for fact in _graph_facts(nested.graph, sizes=sizes, sites=sites):
        # What it is handed, and what it gives, is known; the stops are for graphs on their own.
        if not (plain and isinstance(fact, Stop) and fact.why in (INPUT, OUTPUT)):
            yield fact
    why = f"it passes through {Call(caller, function_name(caller)).where()}"
    for inner, outer in nested.inputs.items():
        if outer is None:
            yield Stop(tuple(_all_dims(inner)), INPUT)
        elif plain:
            yield from (Equal((a,), (b,)) for a, b in zip(dims_of(inner), dims_of(outer), strict=True))
        else:
            yield Stop((*dims_of(inner), *dims_of(outer)), why)
    output = next(node for node in nested.graph.nodes if node.op == "output")
    if not plain:
        yield Stop(tuple(dim for node in (caller, *output.all_input_nodes) for dim in _all_dims(node)), why)
        return
    results = output.args[0] if isinstance(output.args[0], (tuple, list)) else (output.args[0],)
    for i, result in enumerate(results):
        inside = dims_of(result)
        outside = dims_of(caller, i) or dims_of(caller)
        if len(inside) == len(outside):
            yield from (Equal((a,), (b,)) for a, b in zip(inside, outside, strict=True))
        else:
            yield Stop((*inside, *outside), why)


def _all_dims(node: fx.Node) -> list[Dim]:
    return [*dims_of(node), *(dim for i in range(_count(node)) for dim in dims_of(node, i))]


def _shared_layers(sites: Sequence[Site]) -> Iterator[Fact]:
    """The calls of one layer are sliced alike, also where each call derives its weight anew."""
    first: dict[str, Site] = {}
    for site in filter(is_weighted, sites):
        for parameter in site.parameters:
            other = first.setdefault(parameter, site)
            weights = other.product.weight, site.product.weight
            uses = ((each.module, each.transposed, each.weight_shape) for each in (site, other))
            if len(set(uses)) > 1:
                dims = (dim for weight in weights for dim in dims_of(weight))
                yield Stop(tuple(dims), f"{parameter} is multiplied in several ways")
            elif weights[0] is not weights[1]:
                yield from (Equal((a,), (b,)) for a, b in zip(*map(dims_of, weights), strict=True))


def _shared_tensors(nodes: Sequence[fx.Node]) -> Iterator[Fact]:
    """A parameter or buffer that several graphs read is one."""
    first: dict[str, fx.Node] = {}
    for node in nodes:
        name = node.meta.get(PARAMETER) or node.meta.get(BUFFER)
        if name and (other := first.setdefault(name, node)) is not node:
            yield from (Equal((a,), (b,)) for a, b in zip(dims_of(other), dims_of(node), strict=True))


def output_dim(site: Site) -> Dim:
    """Returns the dimension of a product's result that holds its output channels."""
    return dims_of(site.node)[_channel(site)]


def input_dim(site: Site) -> Dim:
    """Returns the dimension of a product's input that holds its input channels."""
    return dims_of(site.product.input)[_channel(site)]


def _channel(site: Site) -> int:
    dims = site.product.signature.dims if site.product.signature else 0
    return -1 - dims


def _weights(makes: list[Site], takes: list[Site]) -> int:
    """Returns the elements of the weights that a group would make smaller."""
    return sum(math.prod(site.weight_shape or ()) for site in {*makes, *takes})


class _Finder:
    """Chooses the groups among the connected components."""

    def __init__(self, dimensions: Dimensions, nodes: list[fx.Node], sites: dict[fx.Node, Site]) -> None:
        self.dimensions = dimensions
        self.nodes = nodes
        self.sites = {node: site for node, site in sites.items() if is_weighted(site)}
        self.component: dict[Part, int] = {}
        self.components = dimensions.components()
        for i, component in enumerate(self.components):
            self.component.update(dict.fromkeys(component, i))
        self.order = {node: i for i, node in enumerate(nodes)}

    def find(self) -> Channels:
        makes, takes = self._roles()
        reasons = {i: self._reason(i, makes.get(i, []), takes.get(i, [])) for i in makes}
        candidates = [i for i, reason in reasons.items() if not reason]
        chosen: list[int] = []
        taken: set[tuple[Dim, int]] = set()
        # A dimension may be sliceable in several ways, such as whole groups of channels or channels of every group: the
        # one that saves most is taken.
        for i in sorted(candidates, key=lambda i: (-_weights(makes[i], takes[i]), self.order[makes[i][0].node])):
            segments = {(part.dim, part.segment) for part in self.components[i]}
            if taken & segments:
                reasons[i] = "the same dimension is sliced in another way"
            else:
                taken |= segments
                chosen.append(i)
        chosen.sort(key=lambda i: self.order[makes[i][0].node])
        names: Counter[str] = Counter()
        groups = [self._group(i, makes[i], takes[i], names) for i in chosen]
        return Channels(self.dimensions, groups, list(self._stopped(reasons, set(chosen))))

    def _roles(self) -> tuple[dict[int, list[Site]], dict[int, list[Site]]]:
        """Returns for each component the products that make it and those that sum over it."""
        makes: dict[int, list[Site]] = defaultdict(list)
        takes: dict[int, list[Site]] = defaultdict(list)
        for site in sorted(self.sites.values(), key=lambda s: self.order[s.node]):
            if site.kind == "conv":
                out, inp = Dim(site.node, OUT), Dim(site.node, IN)
                if site.groups > 1:
                    for i in self._components(Dim(site.node, GROUPS)):
                        makes[i]  # a grouped convolution passes groups on: it neither makes nor sums over them
            else:
                out, inp = output_dim(site), input_dim(site)
            for i in self._components(out):
                makes[i].append(site)
            for i in self._components(inp):
                takes[i].append(site)
        return {i: sites for i, sites in makes.items() if sites}, takes

    def _components(self, dim: Dim) -> list[int]:
        return list(dict.fromkeys(self.component[part] for part in self.dimensions.parts(dim)))

    def _reason(self, i: int, makes: list[Site], takes: list[Site]) -> str:
        """Returns why a component cannot be sliced, or ""."""
        stops = [self.dimensions.stops[part] for part in self.components[i] if part in self.dimensions.stops]
        residual = self._residual(i)
        if residual:
            return residual
        if stops:
            real = [stop.why for stop in stops if not stop.structural] or [stops[0].why]
            return min(real, key=lambda why: (not why.startswith("there is no rule"), "of the graph" in why))
        if not takes:
            return "no convolution or linear layer takes it in"
        if len({(part.dim, part.segment) for part in self.components[i]}) < len(self.components[i]):
            return "one dimension holds it twice, one inside the other"
        blocks = max(
            (
                math.prod(self.dimensions.structure[part.dim][part.segment][: part.factor])
                for part in self.components[i]
                if part.dim.node in self._weights
            ),
            default=1,
        )
        if blocks > MOST_BLOCKS:
            return f"it lies in {blocks} pieces in memory"
        return ""

    @cached_property
    def _weights(self) -> set[fx.Node]:
        return {site.product.weight for site in self.sites.values()}

    def _residual(self, i: int) -> str:
        """Returns where a component is a residual stream: a sum of what different layers made."""
        inside = {part.dim.node for part in self.components[i]}
        origins: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in sorted(inside, key=lambda n: self.order.get(n, 0)):
            site = self.sites.get(node)
            if site is not None and i in self._components(output_dim(site)) and not self._passes_on(site, i):
                origins[node] = frozenset({node})
                continue
            sources = [origins.get(n, frozenset()) for n in node.all_input_nodes if n in inside]
            origins[node] = frozenset().union(*sources)
            if function_name(node) in ("add", "radd", "sub", "rsub", "lerp") and len(sources) > 1:
                made = [source for source in sources if source]
                if len(made) > 1 and not made[0] & made[1]:
                    path = module_path(node)
                    return f"it is a residual stream (summed in {path or 'the model'})"
        return ""

    def _passes_on(self, site: Site, i: int) -> bool:
        """Whether a grouped convolution takes in and gives out this component group by group."""
        return site.kind == "conv" and site.groups > 1 and i in self._components(Dim(site.node, GROUPS))

    def _group(self, i: int, makes: list[Site], takes: list[Site], names: Counter[str]) -> Group:
        first = makes[0]
        names[first.name] += 1
        name = first.name if names[first.name] == 1 else f"{first.name}#{names[first.name]}"
        component = self.components[i]
        part = next(part for part in self.dimensions.parts(output_dim(first)) if part in component)
        factors = self.dimensions.structure[part.dim][part.segment]
        # An axis with a name is no dimension of what its node gives.
        inside = {part.dim.node for part in component if isinstance(part.dim.axis, int)}
        nodes = sorted(inside, key=lambda n: self.order.get(n, 0))
        tensors = [n.meta.get(PARAMETER) or n.meta.get(BUFFER) for n in nodes]
        when = [(self.order[site.node], site.name) for site in (*makes, *takes)]
        for node, tensor in zip(nodes, tensors, strict=True):
            if tensor:
                used = min((self.order[user] for user in node.users if user in self.order), default=0)
                when.append((used, str(tensor).rpartition(".")[0] or str(tensor)))
        return Group(
            name=name,
            units=factors[part.factor],
            inner=math.prod(factors[part.factor + 1 :]),
            producers=makes,
            consumers=takes,
            members=list(dict.fromkeys(name for _, name in sorted(when))),
            activations=[n for n, t in zip(nodes, tensors, strict=True) if t is None and example(n) is not None],
            parts=frozenset(component),
        )

    def _stopped(self, reasons: dict[int, str], chosen: set[int]) -> Iterator[Stopped]:
        """Yields the layers whose output channels are in no group.

        Factors that are only there for another, such as the features inside a head, have no say in the reason.
        """
        for site in _layers(list(self.sites.values())):
            own = self._components(output_dim(site))
            if chosen.intersection(own) or not own:
                continue
            said = [reasons[i] for i in own if reasons.get(i) and not self._structural(i)]
            said = said or [reasons[i] for i in own if reasons.get(i)] or ["it only passes channels on"]
            yield Stopped(site.name, site.out_channels or 0, said[0])

    def _structural(self, i: int) -> bool:
        stops = [self.dimensions.stops[part] for part in self.components[i] if part in self.dimensions.stops]
        return bool(stops) and all(stop.structural for stop in stops)
