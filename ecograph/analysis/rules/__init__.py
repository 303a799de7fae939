"""Rules: for every kind of call, how the dimensions of its operands and results hang together.

One table, from a function's name to a small function that states facts. What a rule leaves unsaid cannot be sliced: a
dimension of an operand or a result that appears in none of its facts is stopped, and so is everything about a call that
has no rule. So an op is added by a few lines that say what goes on, and forgetting one can never make a slice wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ecograph.analysis.dimensions import Dim, Equal, Fact, Joined, Stop
from ecograph.analysis.rules import elementwise, norms, products, shapes
from ecograph.analysis.rules.call import Call, dims_of
from ecograph.analysis.sites import Site

RULES: dict[str, Callable[[Call], Iterator[Fact]]] = {
    **elementwise.RULES,
    **shapes.RULES,
    **norms.RULES,
    **products.RULES,
}


def facts_of(call: Call, site: Site | None) -> Iterator[Fact]:
    """Yields what is known about one call.

    Args:
        call: the call; the sizes of axes that a rule names are filled in.
        site: where it is a product with a weight, the site.
    """
    concerned = [dim for tensor in call.tensors for dim in dims_of(tensor)]
    concerned += [dim for output in call.outputs or [call.output] for dim in output]
    rule = RULES.get(call.name)
    if site is not None and products.is_weighted(site):
        facts = list(products.weighted(call, site))
    elif site is not None:
        yield Stop(tuple(concerned), f"{call.where()}: {site.problem}")
        return
    elif rule is None:
        # What gives no tensor may write into one, as ``x[:, 0] = y`` does.
        yield Stop(tuple(concerned), f"there is no rule for {call.where()}")
        return
    else:
        facts = list(rule(call))
    said: set[Dim] = set()
    for fact in facts:
        said.update(_dims(fact))
    yield from facts
    unsaid = tuple(dim for dim in concerned if dim not in said and call.size(dim) != 1)
    if unsaid:
        yield Stop(unsaid, f"{call.where()} does not keep it")


def _dims(fact: Fact) -> tuple[Dim, ...]:
    if isinstance(fact, Equal):
        return (*fact.left, *fact.right)
    return (fact.whole, *fact.pieces) if isinstance(fact, Joined) else fact.dims
