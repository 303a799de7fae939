"""Facts in, parts and components out: on facts written by hand."""

from __future__ import annotations

import pytest
from torch import fx

from ecograph.analysis.dimensions import Dim, Dimensions, Equal, Fact, Joined, Part, Stop


def dims(sizes: dict[str, int]) -> dict[str, Dim]:
    graph = fx.Graph()
    return {name: Dim(graph.placeholder(name), 0) for name in sizes}


class Case:
    """Dimensions by name, facts in short: ``"a = b c"``, ``"a | b c"`` (joined), ``"! a"`` (stopped)."""

    def __init__(self, sizes: dict[str, int], *facts: str) -> None:
        self.dims = dims(sizes)
        stated = [self._fact(fact) for fact in facts]
        self.result = Dimensions({self.dims[name]: size for name, size in sizes.items()}, stated)

    def _fact(self, text: str) -> Fact:
        left, sign, right = next(text.partition(sign) for sign in ("=", "|", "!") if sign in text)
        a, b = (tuple(self.dims[name] for name in side.split()) for side in (left, right))
        if sign == "=":
            return Equal(a, b)
        return Joined(a[0], b) if sign == "|" else Stop(b, "stopped here", structural=bool(left.strip()))

    def structure(self, name: str) -> tuple[tuple[int, ...], ...]:
        return self.result.structure[self.dims[name]]

    def components(self) -> set[str]:
        """Sets of parts as ``"a b.1"``: of dimensions in one piece the name, of others segment or factor behind it."""
        return {" ".join(sorted(map(self.name, component))) for component in self.result.components()}

    def name(self, part: Part) -> str:
        structure = self.result.structure[part.dim]
        name = part.dim.node.name
        name += f"/{part.segment}" if len(structure) > 1 else ""
        return name + (f".{part.factor}" if len(structure[part.segment]) > 1 else "")

    def stopped(self) -> dict[str, str]:
        return {self.name(part): stop.why for part, stop in self.result.stops.items()}


def test_what_nothing_is_said_of_is_one_part() -> None:
    case = Case({"a": 12, "b": 1, "c": 0})
    assert case.structure("a") == ((12,),)
    assert case.structure("b") == ((),)
    assert case.components() == {"a", "c"}


def test_equal_dimensions_are_one_component() -> None:
    case = Case({"a": 8, "b": 8, "c": 8, "d": 8}, "a = b", "c = b")
    assert case.components() == {"a b c", "d"}


def test_a_packed_projection_has_three_parts_and_so_has_its_weight() -> None:
    sizes = {"weight": 1152, "bias": 1152, "qkv": 1152, "three": 3, "heads": 6, "inside": 64, "proj": 384, "out": 384}
    case = Case(sizes, "weight = qkv", "bias = qkv", "qkv = three heads inside", "proj = heads inside", "out = proj")
    assert case.structure("weight") == case.structure("bias") == ((3, 6, 64),)
    assert case.structure("out") == ((6, 64),)
    assert case.components() == {
        "bias.0 qkv.0 three weight.0",
        "bias.1 heads out.0 proj.0 qkv.1 weight.1",
        "bias.2 inside out.1 proj.1 qkv.2 weight.2",
    }
    sizes_of = {case.name(part): case.result.size(part) for part in case.result.parts(case.dims["qkv"])}
    assert sizes_of == {"qkv.0": 3, "qkv.1": 6, "qkv.2": 64}


def test_refinement_reaches_back_whatever_the_order_of_the_facts() -> None:
    facts = ["a = b", "b = c", "c = d e", "d = f g"]
    for order in (facts, facts[::-1], [facts[2], facts[0], facts[3], facts[1]]):
        case = Case({"a": 24, "b": 24, "c": 24, "d": 6, "e": 4, "f": 2, "g": 3}, *order)
        assert case.structure("a") == ((2, 3, 4),)
        assert case.components() == {"a.0 b.0 c.0 d.0 f", "a.1 b.1 c.1 d.1 g", "a.2 b.2 c.2 e"}


def test_batch_and_heads_merge_into_one_dimension() -> None:
    sizes = {"batch": 2, "heads": 4, "both": 8, "batch2": 2, "heads2": 4}
    case = Case(sizes, "batch heads = both", "both = batch2 heads2")
    assert case.components() == {"batch batch2 both.0", "both.1 heads heads2"}


@pytest.mark.parametrize(
    ("left", "right", "parts"),
    [
        ({"a": 6, "b": 4}, {"c": 4, "d": 6}, None),  # 6 x 4 and 4 x 6 share no factoring
        ({"a": 6, "b": 4}, {"c": 3, "d": 8}, {"a.0 c", "a.1 d.0", "b d.1"}),
        ({"a": 4, "b": 6}, {"c": 2, "d": 12}, {"a.0 c", "a.1 d.0", "b d.1"}),
        ({"a": 12}, {"c": 2, "d": 6}, {"a.0 c", "a.1 d"}),
        ({"a": 2, "b": 1, "e": 3}, {"c": 6, "d": 1}, {"a c.0", "c.1 e"}),
    ],
)
def test_a_view_that_cuts_through_units_stops_and_one_that_does_not_goes_on(
    left: dict[str, int], right: dict[str, int], parts: set[str] | None
) -> None:
    case = Case({**left, **right}, f"{' '.join(left)} = {' '.join(right)}")
    if parts is None:
        assert set(case.stopped()) == {*left, *right}
        assert set(case.stopped().values()) == {"it is regrouped in a way that cuts through its units"}
        assert case.components() == {*left, *right}
    else:
        assert case.components() == parts
        assert not case.stopped()


def test_two_views_that_do_not_agree_stop_only_what_they_disagree_on() -> None:
    case = Case({"a": 6, "b": 2, "c": 3, "d": 3, "e": 2, "other": 6}, "a = b c", "a = d e", "a = other")
    assert "it is regrouped in a way that cuts through its units" in set(case.stopped().values())
    stopped = case.result.stops
    for component in case.result.components():
        if any(part.dim == case.dims["other"] for part in component):
            assert any(part in stopped for part in component)


def test_dimensions_of_different_sizes_are_not_equal() -> None:
    case = Case({"a": 6, "b": 4}, "a = b")
    assert set(case.stopped()) == {"a", "b"}


def test_a_concatenation_is_its_pieces_one_after_the_other() -> None:
    case = Case({"whole": 14, "a": 8, "b": 6, "norm": 14}, "whole | a b", "norm = whole")
    assert case.structure("norm") == ((8,), (6,))
    assert case.components() == {"a norm/0 whole/0", "b norm/1 whole/1"}


def test_what_is_joined_in_one_place_and_taken_apart_in_another_has_the_cuts_of_both() -> None:
    case = Case({"whole": 10, "a": 6, "b": 4, "c": 3, "d": 7}, "whole | a b", "whole | c d")
    assert case.structure("whole") == ((3,), (3,), (4,))
    assert case.components() == {"a/0 c whole/0", "a/1 d/0 whole/1", "b d/1 whole/2"}


def test_one_piece_twice_is_one_component() -> None:
    case = Case({"whole": 12, "a": 4, "b": 4}, "whole | a b a")
    assert case.components() == {"a whole/0 whole/2", "b whole/1"}


def test_heads_are_cut_between_and_never_through() -> None:
    between = Case({"whole": 24, "heads": 6, "inside": 4, "a": 8, "b": 16}, "whole = heads inside", "whole | a b")
    assert between.structure("a") == ((2, 4),)
    # The heads fall into two segments, of which no view can make one dimension again.
    assert "it is regrouped in a way that cuts through its units" in between.stopped().values()
    through = Case({"whole": 24, "heads": 6, "inside": 4, "a": 6, "b": 18}, "whole = heads inside", "whole | a b")
    assert {"a", "b"} <= {name[0] for name in through.stopped()}


def test_halves_that_are_stopped_do_not_cut_what_they_are_joined_to() -> None:
    """Rotary embeddings."""
    facts = ["query = heads inside", "inside | first second", "turned | second first", "turned = inside"]
    sizes = {"query": 32, "heads": 4, "inside": 8, "first": 4, "second": 4, "turned": 8}
    case = Case(sizes, *facts, "! first second inside turned")
    assert case.structure("query") == ((4, 8),)
    assert "heads query.0" in case.components()
    assert "query.0" not in case.stopped()
    assert "heads" not in case.stopped()
    # Where nothing stops the halves they are segments, and no view can have made them.
    cut = Case(sizes, *facts)
    assert "heads" in cut.stopped()


def test_halves_all_of_which_are_stopped_do_not_cut_either() -> None:
    case = Case({"whole": 8, "heads": 4, "inside": 2, "a": 4, "b": 4}, "whole = heads inside", "whole | a b", "! a b")
    assert case.structure("whole") == ((4, 2),)
    assert {"whole.0", "whole.1"} <= set(case.stopped())  # what is joined of stopped pieces is stopped


def test_one_stopped_half_of_two_stops_itself_alone() -> None:
    case = Case({"whole": 8, "a": 3, "b": 5}, "whole | a b", "! a")
    assert case.structure("whole") == ((3,), (5,))
    assert set(case.stopped()) == {"a"}
    assert case.components() == {"a whole/0", "b whole/1"}


def test_a_stop_reaches_every_part_of_its_dimension_and_no_other() -> None:
    case = Case({"a": 6, "b": 2, "c": 3}, "a = b c", "! c")
    assert case.stopped() == {"c": "stopped here"}
    case = Case({"a": 6, "b": 2, "c": 3}, "a = b c", "! a")
    assert set(case.stopped()) == {"a.0", "a.1"}


def test_a_real_reason_takes_the_place_of_a_structural_one() -> None:
    for facts in (["s ! a", "! a"], ["! a", "s ! a"]):
        case = Case({"a": 6, "s": 1}, *facts)
        (stop,) = case.result.stops.values()
        assert not stop.structural


def test_nothing_of_a_dimension_of_one_or_of_none_is_linked() -> None:
    case = Case({"a": 1, "b": 1, "c": 0, "d": 0}, "a = b", "c = d")
    assert case.components() == {"c", "d"}
    assert set(case.stopped()) == {"c", "d"}


def test_links_are_a_graph_whose_edges_join_equal_parts() -> None:
    case = Case({"a": 6, "b": 6, "c": 2, "d": 3}, "a = b", "b = c d")
    assert {len(case.result.links.edges)} == {4}
    for one, other in case.result.links.edges:
        assert case.result.size(one) == case.result.size(other)
