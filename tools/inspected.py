"""Compiling a model only to look at it: on the meta device, where it costs no memory, if that can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import ecograph
from ecograph.cost.devices.find import AUTO
from ecograph.optimize import compile_graphs
from ecograph.record import records
from ecograph.tools import node_diff
from ecograph.tools.console import finite, note
from ecograph.tools.costing import CostOptions
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.graph_diff import GraphStages, readable
from ecograph.tools.graph_nodes import by_name, describe
from ecograph.tools.inputs import Input, example_inputs

if TYPE_CHECKING:
    from torch import nn

    from ecograph.cost.estimate import Estimate
    from ecograph.explain import Report
    from ecograph.schedule import Rate
    from ecograph.tools.spec import Subject

#: A model that the meta device cannot serve is built for real, up to this many parameters (float32: 4 GB).
MOST_PARAMETERS = 10**9


@dataclass(frozen=True)
class Inspected:
    """A model as the compiler sees it.

    Attributes:
        spec: how it was named.
        inputs: the example inputs; empty where unknown.
        given: whether these are the user's.
        device: where it was built: ``"meta"`` holds no data.
        report: what ``explain`` says.
        graphs: where they were asked for.
        estimate: what a step costs, where it was asked for and shapes are known.
        types: path of each module -> name of its class.
        rates: name of each pass -> how strongly it acts over the course of training.
    """

    spec: str
    inputs: Sequence[Input]
    given: bool
    device: str
    report: Report
    graphs: list[GraphStages] = field(default_factory=list)
    estimate: Estimate | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)

    def about(self) -> str:
        """Returns what the figures hold for, in a line."""
        if not self.inputs:
            return "example inputs: none, so shapes are unknown: give --input, such as --input 8x3x32x32"
        return f"example inputs: {', '.join(map(str, self.inputs))}{'' if self.given else ' (by default: see --input)'}"

    def to_dict(self, *, graph: bool = False, diff: bool = False, cost: bool = False) -> dict[str, Any]:
        """Returns the report as JSON types.

        Args:
            graph: with the code of the graphs before and after each pass.
            diff: with their nodes, and which pass changed each.
            cost: with the estimate.
        """
        data: dict[str, Any] = {"spec": self.spec, "inputs": [str(each) for each in self.inputs]}
        data |= {"device": self.device, **self.report.to_dict()}
        if graph and self.graphs:
            data["graphs"] = [each.to_dict() for each in self.graphs]
        if diff:
            data["diff"] = [node_diff.to_dict(each) for each in self.graphs]
        if cost and self.estimate is not None:
            data["cost"] = finite(self.estimate.to_dict())
        return data


def compile_subject(
    subject: Subject,
    given: Sequence[Input],
    passes: Sequence[Any],
    *,
    graph: bool = False,
    cost: CostOptions | None = None,
) -> Inspected:
    """Compiles a model to look at it.

    Some models make tensors on another device in their forward, or decide by values: the meta device
    cannot serve these, so they are built once more, on the CPU.

    Args:
        subject: the model.
        given: the user's inputs; none for those that the subject knows of.
        passes: to apply.
        graph: keep the graphs before and after each pass.
        cost: what a step is to be estimated with; None for no estimate.

    Raises:
        UserError: where the model cannot be built or compiled with these inputs.
    """
    small, inspected = True, None
    try:
        with torch.device("meta"):
            model = subject.build()
        small = sum(p.numel() for p in model.parameters()) <= MOST_PARAMETERS
        inspected = _compile(model, subject, given, passes, graph=graph, cost=cost)
    except Exception:  # what a model raises for want of data can be anything; the CPU tells whose fault it is
        if not small:
            raise
    if inspected is not None and (not small or not inspected.inputs or _whole(inspected.report)):
        return inspected
    model = subject.build()
    try:
        return _compile(model, subject, given, passes, graph=graph, cost=cost)
    except UserError as error:
        if given or not subject.inputs(model):
            raise
        note(f"the default inputs do not serve, so shapes are unknown: give --input ({error})")
        return _compile(model, subject, (), passes, graph=graph, cost=cost, default=False)


def _whole(report: Report) -> bool:
    """Whether Dynamo captured all of the model."""
    return all(method == "dynamo" for _, method, _ in report.parts)


def _compile(
    model: nn.Module,
    subject: Subject,
    given: Sequence[Input],
    passes: Sequence[Any],
    *,
    graph: bool,
    cost: CostOptions | None,
    default: bool = True,
) -> Inspected:
    place = next((p.device.type for p in model.parameters()), "cpu")
    inputs = given or (subject.inputs(model) if default else ())
    example = example_inputs(inputs, place)
    types = {path: type(module).__name__ for path, module in model.named_modules()}
    # What pays is decided for the device and the precision of the estimate.
    device, amp = (AUTO, None) if cost is None else (cost.device, cost.amp)
    with user_errors():
        stages = _stages(model, example, passes, device, amp) if graph else []
        ecograph.optimize(model, example_inputs=example, passes=passes, device=device, amp=amp)
        estimate = cost.estimate(model, example) if cost is not None and example is not None else None
    rates = {
        options["name"]: rate
        for record in records(model)
        for options, rate in zip(record.passes, record.rates, strict=True)
    }
    report = ecograph.explain(model)
    return Inspected(subject.spec, inputs, bool(given), place, report, stages, estimate, types, rates)


def _stages(
    model: nn.Module, example: Any, passes: Sequence[Any], device: str, amp: str | None
) -> list[GraphStages]:
    """Returns every graph as each pass in turn leaves it."""
    captured, _, codes = compile_graphs(model, example_inputs=example, passes=())
    plain = [describe(graph) for graph in captured.graphs]
    before = [old for old, _ in codes]
    after: list[list[tuple[str, str]]] = [[] for _ in codes]
    nodes = [[each] for each in plain]
    for count in range(1, len(passes) + 1):
        rewritten, _, codes = compile_graphs(
            model, example_inputs=example, passes=passes[:count], device=device, amp=amp
        )
        for place, (graph, (_, new)) in enumerate(zip(rewritten.graphs, codes, strict=True)):
            after[place].append((passes[count - 1].name, readable(new)))
            nodes[place].append(describe(graph))
    return [
        GraphStages(graph.path, graph.method, readable(old), stages, by_name(facts))
        for graph, old, stages, facts in zip(captured.graphs, before, after, nodes, strict=True)
    ]
