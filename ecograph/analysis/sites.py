"""Sites: every product with a parameter for a weight, wherever in the model it is called.

A product is a site where its weight derives from parameters alone (the parameter itself, a transposed view, a
standardized or re-parametrized copy) and its other operand does not. A site belongs to the innermost module
in whose forward it is called, which need not be the module that owns the weight: ``nn.MultiheadAttention``
multiplies by its child's ``out_proj.weight`` itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import fx, nn

from ecograph.analysis.flow import Step, flow
from ecograph.analysis.products import Product, find_product
from ecograph.capture.graph import (
    BUFFER,
    OWN_BACKWARD,
    Capture,
    Graph,
    example,
    module_path,
    parameter_name,
    shape,
)

#: The layers that can be replaced as a whole. Exact types: a subclass may have a forward of its own.
PLAIN_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(eq=False)
class Site:
    """One call of a product with a parameter weight.

    Attributes:
        graph: the graph it is in.
        node: its node there; passes may replace it.
        product: what is multiplied, and how.
        name: the layer's name for people: the path of the module that owns the weight, or the weight's own
            name.
        module: path of the module in whose forward the call happens.
        parameters: qualified names of the parameters the weight derives from.
        type: class name of ``module``.
        plain: whether ``module`` is a plain torch.nn layer and this its own product.
        first: no other product comes before it.
        last: no other product comes after it.
        call: 0 for the first call of this layer in a step, 1 for the second, ...
        problem: why no pass can rewrite it, or "".
        shares: of its input and output channels, which shares are computed with, where a pass slices them.
    """

    graph: Graph
    node: fx.Node
    product: Product
    name: str
    module: str
    parameters: tuple[str, ...]
    type: str
    plain: bool = False
    first: bool = False
    last: bool = False
    call: int = 0
    problem: str = ""
    weight_shape: tuple[int, ...] | None = None
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    needs_grad: tuple[bool, bool] = field(default=(True, True))
    shares: tuple[float, float] = (1.0, 1.0)

    @property
    def kind(self) -> str:
        """``"linear"``, ``"conv"``, or ``"other"`` for products that are seen but not rewritten."""
        return self.product.signature.kind if self.product.signature else "other"

    @property
    def transposed(self) -> bool:
        """A transposed convolution, or a linear product whose weight is ``(in, out)``."""
        return bool(self.product.signature and self.product.signature.transposed)

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for a linear product."""
        return int(self.product.arguments.get("groups", 1))

    @property
    def out_channels(self) -> int | None:
        """Number of output channels (output features), or None where the weight's shape is unknown."""
        if self.weight_shape is None or self.kind == "other":
            return None
        if self.kind == "linear":
            return self.weight_shape[-1] if self.transposed else self.weight_shape[0]
        return self.weight_shape[1] * self.groups if self.transposed else self.weight_shape[0]


def find_sites(capture: Capture, model: nn.Module) -> list[Site]:
    """Returns every site of the captured graphs, in execution order.

    Args:
        capture: what :func:`ecograph.capture.capture` returned for ``model``.
        model: the model itself; only its structure is read.
    """
    calls: Counter[tuple[str, str]] = Counter()
    pieces: list[list[Site]] = []
    # A module that is reachable by several paths is one layer, under the path that comes first.
    paths = {id(module): path for path, module in model.named_modules()}
    for graph in capture.graphs:
        steps = list(flow(graph))
        sources = _parameter_sources(steps)
        found: list[Site] = []
        for inner, node, _ in steps:
            product = find_product(node)
            if product is not None and (site := _site(inner, product, sources, model, paths)) is not None:
                key = (site.module, site.name)
                site.call = calls[key]
                calls[key] += 1
                found.append(site)
        _mark_ends(steps, found)
        pieces.append(found)
    _keep_outer_ends([piece for piece in pieces if piece], capture)
    return [site for piece in pieces for site in piece]


def _parameter_sources(steps: list[Step]) -> dict[fx.Node, frozenset[str] | None]:
    """Returns for every node the parameters it derives from, or None where it derives from an input too."""
    sources: dict[fx.Node, frozenset[str] | None] = {}
    for _, node, depends in steps:
        name = parameter_name(node)
        if name is not None:
            sources[node] = frozenset({name})
        elif BUFFER in node.meta:
            sources[node] = frozenset()
        elif node.op == "call_module" or (node.op == "placeholder" and not depends):
            sources[node] = None
        else:
            inputs = [sources[n] for n in depends]
            known = [names for names in inputs if names is not None]
            sources[node] = frozenset().union(*known) if len(known) == len(inputs) else None
    return sources


def _site(
    graph: Graph,
    product: Product,
    sources: dict[fx.Node, frozenset[str] | None],
    model: nn.Module,
    paths: dict[int, str],
) -> Site | None:
    names = [sources[operand] for operand in product.operands]
    if not any(names):
        return None
    problem = product.problem
    index = _weight_index(names)
    weight = product.operands[index]
    behind = sources[weight] or frozenset()
    if product.signature is None:  # several of its operands may be weights
        behind = behind.union(*(found for found in names if found))
    elif weight is not product.weight:
        problem = "the weight is the left operand of the product"
    elif all(names) and product.signature.kind == "linear" and product.signature.transposed:
        problem = "both operands are parameters"
    if OWN_BACKWARD in product.node.meta:
        problem = "it is called inside an autograd.Function, which has a backward of its own"
    module = model.get_submodule(module_path(product.node))
    path = paths[id(module)]
    parameters = tuple(sorted(_name_below(model, path, name) for name in behind))
    inside = all(not path or name.startswith(f"{path}.") for name in parameters)
    if not inside:
        problem = problem or f"its weight {parameters[0]} is handed in from outside {path}"
    weight_shape = shape(weight) or _parameter_shape(model, parameters)
    if problem == "" and len(weight_shape) < 2:
        problem = "the weight is a vector"
    by_matmul = (
        product.signature is not None and product.signature.kind == "linear" and product.signature.transposed
    )
    if problem == "" and by_matmul and None not in names:
        problem = "the other operand is a buffer"
    if problem == "" and by_matmul and len(weight_shape) > 2:
        problem = "a batched weight is not rewritten"
    value, given = example(weight), example(product.operands[0])
    site = Site(
        graph=graph,
        node=product.node,
        product=product,
        name=_layer_name(parameters, path),
        module=path,
        parameters=parameters,
        type=type(module).__name__,
        plain=type(module) in PLAIN_LAYERS and inside,
        problem=problem,
        weight_shape=weight_shape,
        input_shape=shape(product.operands[0]),
        output_shape=shape(product.node),
    )
    site.needs_grad = (
        True if given is None else given.requires_grad,
        all(model.get_parameter(n).requires_grad for n in parameters)
        if value is None
        else value.requires_grad,
    )
    return site


def _weight_index(names: list[frozenset[str] | None]) -> int:
    """Returns which operand is the weight.

    The one that derives from parameters; where several do (``linear`` of learned queries), the one in the
    place where weights stand.
    """
    derived = [i for i, found in enumerate(names) if found]
    return 1 if 1 in derived else derived[0]


def _name_below(model: nn.Module, path: str, name: str) -> str:
    """Returns the parameter's name below ``path``, where a shared module gives it several names."""
    if not path or name.startswith(f"{path}."):
        return name
    parameter = model.get_parameter(name)
    for alias, other in model.get_submodule(path).named_parameters(remove_duplicate=False):
        if other is parameter:
            return f"{path}.{alias}"
    return name


def _parameter_shape(model: nn.Module, names: tuple[str, ...]) -> tuple[int, ...]:
    """Returns the shape of the weight where the graph does not know it: that of its largest parameter."""
    return max((tuple(model.get_parameter(name).shape) for name in names), key=lambda s: (len(s), s))


# How torch names the parameters behind a re-parametrized weight.
_TAILS = (".parametrizations.weight.", ".weight_g", ".weight_v", ".weight_orig", ".weight")


def _layer_name(parameters: tuple[str, ...], path: str) -> str:
    name = parameters[-1]
    for tail in _TAILS:
        head, found, _ = name.rpartition(tail)
        if found and head:
            return head
    return name


def _mark_ends(steps: list[Step], sites: list[Site]) -> None:
    """Marks the sites that no other site comes before, and those that no other comes after."""
    nodes = {site.node for site in sites}
    behind: set[fx.Node] = set()  # nodes that some site leads to
    for _, node, depends in steps:
        if any(n in behind or n in nodes for n in depends):
            behind.add(node)
    ahead: set[fx.Node] = set()  # nodes that lead to some site
    for _, node, depends in reversed(steps):
        if node in ahead or node in nodes:
            ahead.update(depends)
    for site in sites:
        site.first, site.last = site.node not in behind, site.node not in ahead


def _keep_outer_ends(pieces: list[list[Site]], capture: Capture) -> None:
    """Where a model is in pieces, only the first piece has first layers and only the last has last ones.

    Pieces that did not run are neither.
    """
    ran = [piece for piece in pieces if not capture.shapes or piece[0].graph.method == "dynamo"]
    for piece in pieces:
        for site in piece:
            site.first = site.first and piece is ran[0]
            site.last = site.last and piece is ran[-1]
