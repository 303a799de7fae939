"""Where the slices of channel groups touch a model: which calls multiply, normalize, read or regroup sliced dimensions.

Of the calls a group passes through, most need no change: a GELU of half as many features is the same GELU. What does:

* products, whose weights are cut;
* batch norms, whose statistics and weights are cut;
* other calls that read a parameter or buffer of the group's width;
* calls that spell out sizes, such as ``x.view(batch, tokens, heads, features)``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from ecograph.analysis.channels import Channels
from ecograph.analysis.layout import Layout, is_sliced
from ecograph.analysis.rules.call import dims_of, function_name
from ecograph.analysis.rules.products import GROUPS, IN, OUT
from ecograph.analysis.sites import Site
from ecograph.capture.graph import BUFFER, PARAMETER, Graph, module_path

#: Functions whose arguments spell out sizes of their results.
SIZED = ("view", "reshape", "unflatten", "expand", "broadcast_to", "split", "split_with_sizes", "group_norm")


@dataclass(frozen=True, eq=False)
class ProductCut:
    """A product with a cut weight.

    Attributes:
        site: the product.
        out: layout of its output channels; of those of one group, where whole groups are not sliced.
        inp: layout of its input channels, of one group.
        groups: layout of its groups.
        unscaled: the group whose scale a batch norm behind the product would cancel, or "".
        carried: the group whose scale the batch norm that makes it carries, or "".
    """

    site: Site
    out: Layout
    inp: Layout
    groups: Layout
    unscaled: str = ""
    carried: str = ""


@dataclass(frozen=True, eq=False)
class NormCut:
    """A batch norm on cut channels, or behind a product whose scale it would cancel.

    Attributes:
        node: where it is called.
        module: path of the module in whose forward.
        channels: layout of its channels.
        scale: the group whose scale its statistics take on, or "".
        tensors: names, within the module, of its statistics, weight and bias.
        gain: the group, its own, whose scale its weight and bias carry, or "".
    """

    node: fx.Node
    module: str
    channels: Layout
    scale: str
    tensors: tuple[str, ...]
    gain: str = ""


@dataclass(frozen=True, eq=False)
class TensorCut:
    """A parameter or buffer that a call reads at the group's width.

    Attributes:
        node: the parameter's node.
        user: the call.
        module: path of the module in whose forward.
        name: the tensor's name within the module.
        layouts: of its dimensions.
    """

    node: fx.Node
    user: fx.Node
    module: str
    name: str
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, eq=False)
class SizeChange:
    """A call that spells out sizes.

    Attributes:
        node: the call.
        module: path of the module in whose forward.
        name: of the function.
        before: layouts of the dimensions of its input.
        after: layouts of the dimensions of its result; of several results, of each.
        groups: for a group norm, the layout of its groups.
    """

    node: fx.Node
    module: str
    name: str
    before: tuple[Layout, ...]
    after: tuple[tuple[Layout, ...], ...]
    groups: Layout = ()

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Of all dimensions."""
        return (*self.before, *(layout for layouts in self.after for layout in layouts), self.groups)


@dataclass
class Slicing:
    """Every call that must change, and the groups with a call that cannot."""

    products: dict[fx.Node, ProductCut] = field(default_factory=dict)
    norms: list[NormCut] = field(default_factory=list)
    tensors: list[TensorCut] = field(default_factory=list)
    sizes: list[SizeChange] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def all_nodes(graph: Graph) -> Iterator[fx.Node]:
    """Yields the nodes of a graph and of those nested in it."""
    for node in graph.nodes:
        yield node
        for nested in graph.nested.get(node, []):
            yield from all_nodes(nested.graph)


def find_slicing(graphs: Sequence[Graph], channels: Channels, sites: Sequence[Site], model: nn.Module) -> Slicing:
    """Returns every call that slicing the groups of ``channels`` changes."""
    found = Slicing()
    by_node = {site.node: site for site in sites}
    paths = {id(module): path for path, module in model.named_modules()}
    if not channels.groups:
        return found
    nodes = [node for graph in graphs if graph.shapes for node in all_nodes(graph)]
    for node in nodes:
        site = by_node.get(node)
        if site is not None and site.product.signature is not None and not site.problem:
            cut = _product(site, channels)
            if any(map(is_sliced, (cut.out, cut.inp, cut.groups))):
                found.products[node] = cut
    _settle_scales(found.products, nodes)
    for node in nodes:
        if node.op in ("placeholder", "get_attr") and (PARAMETER in node.meta or BUFFER in node.meta):
            found.tensors += _tensor(node, channels, by_node, model, paths)
        elif function_name(node) == "batch_norm":
            found.refused.update(_across_ranks(node, channels, model))
            found.norms += _norm(node, channels, found.products, model, paths)
        elif function_name(node) == "instance_norm":
            found.refused.update(_checked(node, channels, model))
        elif function_name(node) in SIZED:
            found.sizes += _sizes(node, channels, model, paths)
    return found


def unsupported(slicing: Slicing) -> dict[str, str]:
    """Returns the groups that cannot be sliced in the user's own modules, with the reasons."""
    problems = dict(slicing.refused)
    norms: dict[str, tuple[str, ...]] = {}
    for norm in slicing.norms:
        if norms.setdefault(norm.module, norm.tensors) != norm.tensors:
            why = f"{norm.module or 'the model'} calls batch_norm for several layers"
            problems |= dict.fromkeys([*_groups(norm.channels), *filter(None, [norm.scale])], why)
    for cut in slicing.tensors:
        if not cut.name:
            tensor = cut.node.meta.get(PARAMETER) or cut.node.meta.get(BUFFER)
            for layout in cut.layouts:
                why = f"{tensor} is used by {function_name(cut.user)} outside of the module that holds it"
                problems |= dict.fromkeys(_groups(layout), why)
    for change in slicing.sizes:
        for layout in change.layouts:
            if len(layout) > 1 and change.name not in ("split", "split_with_sizes", "group_norm"):
                why = f"{change.name} in {change.module or 'the model'} spells out the size of joined dimensions"
                problems |= dict.fromkeys(_groups(layout), why)
    return problems


def _groups(layout: Layout) -> list[str]:
    return [segment.group for segment in layout if segment.group]


def _product(site: Site, channels: Channels) -> ProductCut:
    if site.kind == "conv":
        out, inp, groups = (channels.axis(site.node, name) for name in (OUT, IN, GROUPS))
    else:
        weight = channels.layouts(site.product.weight)
        inp, out = weight if site.transposed else (weight[1], weight[0])
        groups = ()
    return ProductCut(site, out, inp, groups, _cancelled(site, inp))


def _cancelled(site: Site, inp: Layout) -> str:
    """Returns the group of a product's input whose scale a batch norm right behind it would cancel."""
    users = list(site.node.users)
    signature = site.product.signature
    bias = site.product.arguments.get(signature.bias) if signature and signature.bias else None
    if len(users) != 1 or function_name(users[0]) != "batch_norm" or bias is not None or len(inp) != 1:
        return ""
    return inp[0].group if users[0].args and users[0].args[0] is site.node else ""


def _settle_scales(products: dict[fx.Node, ProductCut], nodes: Sequence[fx.Node]) -> None:
    """Leaves the scale in where a layer, or the batch norm behind it, is also called in another way."""
    norms = [node for node in nodes if function_name(node) == "batch_norm" and node.args]
    uses: dict[Any, set[fx.Node]] = defaultdict(set)
    for node, cut in products.items():
        uses[cut.site.module, cut.site.parameters].add(node)
    for norm in norms:
        source, *tensors = norm.all_input_nodes
        called = (module_path(norm), *tensors)
        uses[called].add(source)
    settled = False
    while not settled:
        settled = True
        for sources in uses.values():
            cuts = [products.get(node) for node in sources]
            if len({cut.unscaled if cut is not None else "" for cut in cuts}) > 1:
                settled = False
                products.update({cut.site.node: replace(cut, unscaled="") for cut in cuts if cut is not None})


def _checked(node: fx.Node, channels: Channels, model: nn.Module) -> dict[str, str]:
    """Returns the groups that a layer cannot take in because it counts its channels itself."""
    module = model.get_submodule(module_path(node))
    if not isinstance(module, _InstanceNorm):
        return {}
    why = f"{type(module).__name__} in {module_path(node) or 'the model'} checks how many channels it is given"
    return {name: why for layout in channels.layouts(node) for name in _groups(layout)}


def _across_ranks(node: fx.Node, channels: Channels, model: nn.Module) -> dict[str, str]:
    """Returns the groups that pass through a batch norm over several processes, which is no torch function there."""
    if not isinstance(model.get_submodule(module_path(node)), nn.SyncBatchNorm):
        return {}
    why = f"SyncBatchNorm in {module_path(node) or 'the model'} computes its statistics outside of torch's functions"
    return {name: why for layout in channels.layouts(node) for name in _groups(layout)}


def _norm(
    node: fx.Node,
    channels: Channels,
    products: dict[fx.Node, ProductCut],
    model: nn.Module,
    paths: dict[int, str],
) -> Iterator[NormCut]:
    input = node.args[0]
    dims = dims_of(input)
    if len(dims) < 2:
        return
    layout = channels.layout(dims[1])
    product = products.get(input) if isinstance(input, fx.Node) else None
    scale = product.unscaled if product is not None else ""
    if is_sliced(layout) or scale:
        path = _path(node, model, paths)
        tensors = [n for n in node.all_input_nodes[1:] if PARAMETER in n.meta or BUFFER in n.meta]
        yield NormCut(node, path, layout, scale, tuple(_inside(n, path, model) for n in tensors))


def _tensor(
    node: fx.Node,
    channels: Channels,
    sites: dict[fx.Node, Site],
    model: nn.Module,
    paths: dict[int, str],
) -> Iterator[TensorCut]:
    layouts = channels.layouts(node)
    if not any(map(is_sliced, layouts)):
        return
    for user in node.users:
        site = sites.get(user)
        signature = site.product.signature if site is not None else None
        if site is not None and signature is not None:
            bias = site.product.arguments.get(signature.bias) if signature.bias else None
            if node is site.product.weight or node is bias:
                continue
        if function_name(user) == "batch_norm" or user.op == "output" or "checkpoint" in str(user.target):
            continue
        path = _path(user, model, paths)
        yield TensorCut(node, user, path, _inside(node, path, model), layouts)


def _sizes(node: fx.Node, channels: Channels, model: nn.Module, paths: dict[int, str]) -> Iterator[SizeChange]:
    name = function_name(node)
    source = node.args[0] if node.args else node.kwargs.get("input")
    before = channels.layouts(source) if isinstance(source, fx.Node) else ()
    value = node.meta.get("example_value")
    if isinstance(value, (tuple, list)):
        after = tuple(tuple(map(channels.layout, dims_of(node, i))) for i in range(len(value)))
    else:
        after = (channels.layouts(node),)
    groups = channels.axis(node, GROUPS) if name == "group_norm" and before else ()
    if any(is_sliced(layout) for layouts in (before, *after) for layout in layouts):
        yield SizeChange(node, _path(node, model, paths), name, before, after, groups)


def _path(node: fx.Node, model: nn.Module, paths: dict[int, str]) -> str:
    """Returns where a call happens: of a module with several paths, the first."""
    return paths[id(model.get_submodule(module_path(node)))]


def _inside(node: fx.Node, path: str, model: nn.Module) -> str:
    """Returns the name of a parameter or buffer within the module at ``path``, or "" where it is not inside."""
    name = str(node.meta.get(PARAMETER) or node.meta.get(BUFFER))
    if not path or name.startswith(f"{path}."):
        return name[len(path) + 1 :] if path else name
    owner, _, leaf = name.rpartition(".")
    tensor: Any = getattr(model.get_submodule(owner), leaf)
    module = model.get_submodule(path)
    inside = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return next((alias for alias, other in inside if other is tensor), "")
