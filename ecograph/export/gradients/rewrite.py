"""Putting the sparse backward into a training graph.

For every site, the nodes that ONNX Runtime built for its gradient become the dense branch of an ``If``; the other
branch computes with the kept channels. How many these are is an input of the graph, one number for each site, so the
schedule of the drop rate needs no other graph, and where all are kept the dense nodes run as they were built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ecograph.export.gradients.conv import sparse_conv_grad
from ecograph.export.gradients.linear import sparse_linear_grad
from ecograph.export.gradients.nodes import Constants, Nodes
from ecograph.export.sites import PREFIX, ExportedSite

if TYPE_CHECKING:
    import onnx

#: The graph's input ``(sites,)``, int64: channels that each site keeps, per group.
KEEP = "ecograph.keep"
#: The graph's input with random numbers for the sites that choose at random, one for each of their channels.
RANKS = "ecograph.ranks"


def make_sparse(model: onnx.ModelProto, sites: Sequence[ExportedSite], *, inputs: int) -> list[int]:
    """Rewrites the gradients of all sites in a training graph, in place.

    Args:
        model: the training graph.
        sites: in the order of their indices.
        inputs: how many of the graph's inputs are the user's; the new ones come after these.

    Returns:
        Indices of the sites whose gradient the graph has; frozen layers have none.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    nodes = list(graph.node)
    forwards = {node.name: node for node in nodes}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    constants = Constants(graph)
    done, offset = [], 0
    for index, site in enumerate(sites):
        name = f"{PREFIX}{index}"
        gradients = [node for node in nodes if node.name.startswith(f"{name}_Grad/")]
        ranks = (offset, offset + site.groups * site.channels) if site.random else None
        offset = ranks[1] if ranks else offset
        if not gradients:
            continue
        outer = Nodes(f"{name}.sparse", constants)
        keep = outer.add("Gather", [KEEP, outer.integers(index)], "keep")
        inner = Nodes(f"{name}.then", constants)
        ranked = ""
        if ranks:
            ranked = inner.add("Slice", [RANKS, *(inner.integers(end) for end in ranks)], "ranks")
        if site.kind == "conv":
            work = [node for node in gradients if node.op_type in ("ConvGrad", "ConvTransposeGrad")]
            found = sparse_conv_grad(inner, work, site, keep, ranked, shapes.get(work[0].input[2], [0] * 4))
        else:
            work = _products(gradients)
            found = sparse_linear_grad(inner, forwards[name], work, site, keep, ranked)
        _branch(outer, inner, work, found, keep, site, name)
        at = nodes.index(work[0])
        nodes[at:at] = outer.list
        nodes = [node for node in nodes if all(node is not each for each in work)]
        done.append(index)
    del graph.node[:]
    graph.node.extend(nodes)
    if done:
        added = [helper.make_tensor_value_info(KEEP, TensorProto.INT64, [len(sites)])]
        if offset:
            added.append(helper.make_tensor_value_info(RANKS, TensorProto.FLOAT, [offset]))
        kept = list(graph.input)
        del graph.input[:]
        graph.input.extend([*kept[:inputs], *added, *kept[inputs:]])
    return done


def _products(gradients: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Returns the products and the sum for the bias, without the small nodes around them."""
    return [node for node in gradients if node.op_type in ("Gemm", "MatMul", "FusedMatMul", "ReduceSum")]


def _branch(
    outer: Nodes,
    inner: Nodes,
    work: Sequence[onnx.NodeProto],
    found: dict[str, str],
    keep: str,
    site: ExportedSite,
    name: str,
) -> None:
    """Adds the ``If``: the sparse nodes where channels are dropped, else those that were there."""
    from onnx import TensorProto, helper

    results = [output for node in work for output in node.output if output]
    dense = Nodes(f"{name}.else", inner.constants)
    for node in work:
        dense.copy(node, list(node.input), [f"{output}.dense" if output else "" for output in node.output])
    for result in results:
        if result not in found:  # stays dense in both branches
            (node,) = [node for node in work if result in node.output]
            inner.copy(node, list(node.input), [f"{result}.same" if result == o else "" for o in node.output])
            found[result] = f"{result}.same"

    def outputs(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in names]

    fewer = outer.add("Less", [keep, outer.integers(site.channels)], "fewer")
    outer.add(
        "If",
        [fewer],
        [f"={result}" for result in results],
        then_branch=helper.make_graph(inner.list, f"{name}.sparse", [], outputs([found[r] for r in results])),
        else_branch=helper.make_graph(dense.list, f"{name}.dense", [], outputs([f"{r}.dense" for r in results])),
    )
