"""Which dimensions of which tensors are one and the same index space, and how each is made up.

Rules (:mod:`ecograph.analysis.rules`) state facts about single calls: these dimensions are equal, this one is those
laid out one after the other, this one cannot be sliced. :class:`Dimensions` draws the conclusion for a whole model, in
two steps. First every dimension is refined into parts that all facts agree on: a projection to 1152 features that is
later viewed as ``(3, 6, 64)`` has three parts, and so has the weight it came from. Then the parts become the nodes of
a networkx graph, equal parts are joined by edges, and its connected components are what shrinks together.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import networkx as nx
from torch import fx


class Dim(NamedTuple):
    """One dimension of one tensor.

    Attributes:
        node: the node that gives the tensor.
        axis: the dimension; a name for an axis that no tensor has as a dimension, such as a convolution's groups.
        item: where the node gives several tensors, which of them.
    """

    node: fx.Node
    axis: int | str
    item: int | None = None


class Part(NamedTuple):
    """One factor of one segment of a dimension: the finest thing that can be sliced."""

    dim: Dim
    segment: int
    factor: int


@dataclass(frozen=True)
class Equal:
    """Two lists of dimensions that span the same index space in row-major order, as before and after a view."""

    left: tuple[Dim, ...]
    right: tuple[Dim, ...]


@dataclass(frozen=True)
class Joined:
    """A dimension that holds others, one after the other, as a concatenation makes it."""

    whole: Dim
    pieces: tuple[Dim, ...]


@dataclass(frozen=True)
class Stop:
    """Dimensions that cannot be sliced.

    Attributes:
        dims: which.
        why: the reason, for people.
        structural: said of a factor that exists only as a consequence of another (the 3 of a packed projection).
    """

    dims: tuple[Dim, ...]
    why: str
    structural: bool = False


Fact = Equal | Joined | Stop

#: A dimension's segments, each the list of its factors' sizes. Factors of size 1 are left out.
Structure = tuple[tuple[int, ...], ...]


class Dimensions:
    """The conclusion from all facts about a model.

    Args:
        sizes: every dimension, with its size.
        facts: what the rules say.

    Attributes:
        structure: what each dimension is made up of.
        links: the networkx graph of parts; every two joined ones are the same index space.
        stops: for parts that cannot be sliced, why.
    """

    def __init__(self, sizes: dict[Dim, int], facts: Iterable[Fact]) -> None:
        self.structure: dict[Dim, Structure] = {dim: _whole(size) for dim, size in sizes.items()}
        self.links: nx.Graph[Part] = nx.Graph()
        self.stops: dict[Part, Stop] = {}
        facts = list(facts)
        pointless = _pointless(facts)
        broken = pointless | self._refine([f for f in facts if not isinstance(f, Stop) and id(f) not in pointless])
        self.links.add_nodes_from(part for dim in self.structure for part in self.parts(dim))
        for fact in facts:
            if isinstance(fact, Stop):
                self._stop(fact)
            elif id(fact) in broken:
                self._stop(Stop(_dims(fact), "it is regrouped in a way that cuts through its units"))
            else:
                self.links.add_edges_from(self._pairs(fact))

    def parts(self, dim: Dim) -> list[Part]:
        """Returns the parts of a dimension, in memory order."""
        return [Part(dim, s, f) for s, segment in enumerate(self.structure[dim]) for f in range(len(segment))]

    def size(self, part: Part) -> int:
        """Returns the size of a part."""
        return self.structure[part.dim][part.segment][part.factor]

    def components(self) -> list[set[Part]]:
        """Returns the sets of parts that shrink together."""
        return list(nx.connected_components(self.links))

    def _stop(self, stop: Stop) -> None:
        for dim in stop.dims:
            for part in self.parts(dim):
                known = self.stops.get(part)
                if known is None or known.structural:
                    self.stops[part] = stop

    def _refine(self, facts: Sequence[Equal | Joined]) -> set[int]:
        """Refines every dimension until all facts agree; returns the ids of the facts that cannot be met."""
        touching: dict[Dim, list[Equal | Joined]] = defaultdict(list)
        for fact in facts:
            for dim in _dims(fact):
                touching[dim].append(fact)
        broken: set[int] = set()
        queue = deque(facts)
        waiting = {id(fact) for fact in facts}
        while queue:
            fact = queue.popleft()
            waiting.discard(id(fact))
            if id(fact) in broken:
                continue
            refined = self._agree(fact)
            if refined is None:
                broken.add(id(fact))
                continue
            for dim, structure in refined.items():
                if structure != self.structure[dim]:
                    self.structure[dim] = structure
                    for other in touching[dim]:
                        if id(other) not in waiting:
                            waiting.add(id(other))
                            queue.append(other)
        return broken

    def _agree(self, fact: Equal | Joined) -> dict[Dim, Structure] | None:
        """Returns the structures with which a fact is met, or None."""
        if isinstance(fact, Joined):
            pieces = [self.structure[piece] for piece in fact.pieces]
            both = _align(self.structure[fact.whole], tuple(segment for piece in pieces for segment in piece))
            if both is None:
                return None
            sizes = [sum(map(math.prod, piece)) for piece in pieces]
            cut = _deal(both, sizes)
            return {fact.whole: both, **dict(zip(fact.pieces, cut, strict=True))}
        # Dimensions of size 1, such as the groups of most convolutions, say nothing.
        left, right = ([dim for dim in side if self.structure[dim] != ((),)] for side in (fact.left, fact.right))
        if len(left) == len(right) == 1:
            both = _align(self.structure[left[0]], self.structure[right[0]])
            return None if both is None else {left[0]: both, right[0]: both}
        if any(len(self.structure[dim]) != 1 for dim in (*left, *right)):
            return None
        sides = [[self.structure[dim][0] for dim in side] for side in (left, right)]
        factors = _common([f for own in sides[0] for f in own], [f for own in sides[1] for f in own])
        if factors is None:
            return None
        result: dict[Dim, Structure] = {}
        for dims, structures in zip((left, right), sides, strict=True):
            rest = deque(factors)
            for dim, own in zip(dims, structures, strict=True):
                mine: list[int] = []
                while math.prod(mine) < math.prod(own):
                    mine.append(rest.popleft())
                result[dim] = (tuple(mine),)
        return result

    def _pairs(self, fact: Equal | Joined) -> Iterable[tuple[Part, Part]]:
        if isinstance(fact, Joined):
            pieces = [(dim, s) for dim in fact.pieces for s in range(len(self.structure[dim]))]
            for whole, (dim, s) in enumerate(pieces):
                for f in range(len(self.structure[dim][s])):
                    yield Part(fact.whole, whole, f), Part(dim, s, f)
        else:
            left = [part for dim in fact.left for part in self.parts(dim)]
            right = [part for dim in fact.right for part in self.parts(dim)]
            yield from zip(left, right, strict=True)


def _pointless(facts: Sequence[Fact]) -> set[int]:
    """Returns the ids of the joins of dimensions that are stopped as a whole anyway.

    Rotary embeddings take every head apart and join the halves again. That says nothing about slices, but would cut the
    features of a head into segments, which no view could regroup.
    """
    same: Any = nx.utils.UnionFind()
    stopped: set[Dim] = set()
    for fact in facts:
        if isinstance(fact, Stop):
            stopped.update(fact.dims)
        elif isinstance(fact, Equal) and len(fact.left) == len(fact.right) == 1:
            same.union(fact.left[0], fact.right[0])
    roots = {same[dim] for dim in stopped}
    joins = [fact for fact in facts if isinstance(fact, Joined)]
    return {
        id(fact)
        for fact in joins
        if same[fact.whole] in roots or all(same[piece] in roots for piece in fact.pieces)
    }


def _dims(fact: Equal | Joined) -> tuple[Dim, ...]:
    return (fact.whole, *fact.pieces) if isinstance(fact, Joined) else (*fact.left, *fact.right)


def _whole(size: int) -> Structure:
    return ((size,),) if size != 1 else ((),)


def _common(a: Iterable[int], b: Iterable[int]) -> tuple[int, ...] | None:
    """Returns the coarsest factors that both row-major factorings can be split into, or None."""
    left, right, result = deque(a), deque(b), []
    while left and right:
        x, y = left.popleft(), right.popleft()
        small, large = min(x, y), max(x, y)
        if small == 0 or large % small:
            return None
        result.append(small)
        if large != small:
            (left if x > y else right).appendleft(large // small)
    return None if left or right else tuple(result)


def _align(a: Structure, b: Structure) -> Structure | None:
    """Returns the coarsest structure that both can be refined into, or None."""
    left, right = deque(a), deque(b)
    result: list[tuple[int, ...]] = []
    while left and right:
        x, y = left.popleft(), right.popleft()
        size = min(math.prod(x), math.prod(y))
        heads = []
        for segment, rest in ((x, left), (y, right)):
            cut = _cut(segment, size)
            if cut is None:
                return None
            heads.append(cut[0])
            if cut[1] is not None:
                rest.appendleft(cut[1])
        both = _common(*heads)
        if both is None:
            return None
        result.append(both)
    return None if left or right else tuple(result)


def _cut(segment: tuple[int, ...], size: int) -> tuple[tuple[int, ...], tuple[int, ...] | None] | None:
    """Cuts the first ``size`` elements off a segment, where that does not cut through its inner factors."""
    total = math.prod(segment)
    if size == total:
        return segment, None
    outer, inner = segment[0], segment[1:]
    block = total // outer
    if size == 0 or size % block:
        return None
    first, second = size // block, outer - size // block
    return tuple(f for f in (first, *inner) if f != 1), tuple(f for f in (second, *inner) if f != 1)


def _deal(segments: Structure, sizes: Sequence[int]) -> list[Structure]:
    """Deals segments out to dimensions of these sizes, in order."""
    rest, result = deque(segments), []
    for size in sizes:
        mine: list[tuple[int, ...]] = []
        while sum(map(math.prod, mine)) < size:
            mine.append(rest.popleft())
        result.append(tuple(mine))
    return result
