"""Inspected models for tests of what is drawn: made by hand, since capturing thousands of nodes takes a minute."""

from __future__ import annotations

from ecograph.cost.devices import find_device
from ecograph.cost.estimate import Amount, Estimate, LayerCost, PassCost
from ecograph.cost.estimate.result import Memory
from ecograph.cost.flops import Flops
from ecograph.explain import LayerReport, Report
from ecograph.schedule import Rate
from ecograph.tools.graph_diff import GraphStages
from ecograph.tools.graph_nodes import NodeFacts
from ecograph.tools.inputs import Input
from ecograph.tools.inspected import Inspected

#: A module of this name, if it were not text, would run.
EVIL = "<script>alert(1)</script>"
#: In a block, in order: module, class, operations.
LAYERS = (("norm", "LayerNorm", 1), ("up", "Linear", 1), (EVIL, "GELU", 2), ("down", "Linear", 1))


def many_nodes(blocks: int = 400) -> Inspected:
    """Returns a model of ``5 * blocks`` nodes, half of whose products a pass rewrote."""
    nodes = {"x": NodeFacts("x", "input", "", (8, 64))}
    types, costs, products = {"": "Net", "blocks": "Sequential"}, [], []
    before, after, previous = ["def forward(self, x):"], ["def forward(self, x):"], "x"
    for number in range(blocks):
        types[f"blocks.{number}"] = "Block"
        for position, (module, type_, count) in enumerate(LAYERS):
            path = f"blocks.{number}.{module}"
            types[path] = type_
            for _ in range(count):
                name = f"n{len(nodes)}"
                operation = type_.lower()
                nodes[name] = NodeFacts(name, operation, path, (8, 64), f"net.py:{position + 7}", (previous,))
                before.append(f"    {name} = torch.{operation}({previous})")
                sparse = "sparse_" * (module == "down")
                after.append(f"    {name} = torch.{sparse}{operation}({previous})")
                previous = name
            cost = Amount(1e-3 * (position + 1), 1e-2 * (position + 1), 1e6, 1e4, 1)
            saved = 0.5 if module == "down" else 1.0
            costs.append(LayerCost(path, type_, {"forward": cost}, {"forward": cost * saved}))
            if type_ == "Linear":
                passes, reason = (("sparse_backward",), "") if module == "down" else ((), "too few channels")
                flops = Flops(10**6, 10**6, 10**6)
                products.append(LayerReport(path, type_, (8, 64), passes, reason, flops, flops))
    for lines in (before, after):
        lines.append(f"    return ({previous},)")
    nodes["output"] = NodeFacts("output", "output", "", None, "", (previous,))
    step = Amount(1e-3 * blocks, 1e-2 * blocks, 0, 1e6, 10)
    costs.append(LayerCost("", "Net", {"optimizer": step}, {"optimizer": step}))
    saved = Amount(0.1, 0.5, 1e6, 1e3, 0)
    memory = Memory(1e6, 10**6, 2 * 10**6)
    options = {"name": "sparse_backward", "drop": 0.8, "mean_rate": 0.4}
    stages = GraphStages("", "dynamo", "\n".join(before), [("sparse_backward", "\n".join(after))], nodes)
    return Inspected(
        spec="net.py:Net",
        inputs=[Input((8, 64))],
        given=True,
        device="meta",
        report=Report(
            "Net", [options], products, Flops(), Flops(), [("", "dynamo", "")], notes=["mind </script> this"]
        ),
        graphs=[stages],
        estimate=Estimate(
            "Net", find_device("h100"), costs, [PassCost("sparse_backward", saved, saved)], memory, memory, {"odd": 2}
        ),
        types=types,
        rates={"sparse_backward": Rate(0.8, "alternate")},
    )
