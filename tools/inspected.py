"""Compiling a model only to look at it: on the meta device, where it costs no memory, if that can serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

import ecograph
from ecograph.optimize import compile_graphs
from ecograph.tools.console import note
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.graph_diff import GraphStages, readable
from ecograph.tools.inputs import Input, example_inputs

if TYPE_CHECKING:
    from torch import nn

    from ecograph.explain import Report
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
    """

    spec: str
    inputs: Sequence[Input]
    given: bool
    device: str
    report: Report
    graphs: list[GraphStages] = field(default_factory=list)

    def about(self) -> str:
        """Returns what the figures hold for, in a line."""
        if not self.inputs:
            return "example inputs: none, so shapes are unknown: give --input, such as --input 8x3x32x32"
        return f"example inputs: {', '.join(map(str, self.inputs))}{'' if self.given else ' (by default: see --input)'}"

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON types."""
        data: dict[str, Any] = {"spec": self.spec, "inputs": [str(each) for each in self.inputs]}
        data |= {"device": self.device, **self.report.to_dict()}
        return data | ({"graphs": [graph.to_dict() for graph in self.graphs]} if self.graphs else {})


def compile_subject(
    subject: Subject, given: Sequence[Input], passes: Sequence[Any], *, graph: bool = False
) -> Inspected:
    """Compiles a model to look at it.

    Some models make tensors on another device in their forward, or decide by values: the meta device
    cannot serve these, so they are built once more, on the CPU.

    Args:
        subject: the model.
        given: the user's inputs; none for those that the subject knows of.
        passes: to apply.
        graph: keep the graphs before and after each pass.

    Raises:
        UserError: where the model cannot be built or compiled with these inputs.
    """
    small, inspected = True, None
    try:
        with torch.device("meta"):
            model = subject.build()
        small = sum(p.numel() for p in model.parameters()) <= MOST_PARAMETERS
        inspected = _compile(model, subject, given, passes, graph=graph)
    except Exception:  # what a model raises for want of data can be anything; the CPU tells whose fault it is
        if not small:
            raise
    if inspected is not None and (not small or not inspected.inputs or _whole(inspected.report)):
        return inspected
    model = subject.build()
    try:
        return _compile(model, subject, given, passes, graph=graph)
    except UserError as error:
        if given or not subject.inputs(model):
            raise
        note(f"the default inputs do not serve, so shapes are unknown: give --input ({error})")
        return _compile(model, subject, (), passes, graph=graph, default=False)


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
    default: bool = True,
) -> Inspected:
    device = next((p.device.type for p in model.parameters()), "cpu")
    inputs = given or (subject.inputs(model) if default else ())
    example = example_inputs(inputs, device)
    with user_errors():
        stages = _stages(model, example, passes) if graph else []
        ecograph.optimize(model, example_inputs=example, passes=passes)
    return Inspected(subject.spec, inputs, bool(given), device, ecograph.explain(model), stages)


def _stages(model: nn.Module, example: Any, passes: Sequence[Any]) -> list[GraphStages]:
    """Returns every graph as each pass in turn leaves it."""
    captured, _, codes = compile_graphs(model, example_inputs=example, passes=passes[:1])
    names = [each.name for each in passes]
    after = [[(name, new)] for _, new in codes for name in names[:1]] or [[] for _ in codes]
    for count in range(2, len(passes) + 1):
        _, _, codes = compile_graphs(model, example_inputs=example, passes=passes[:count])
        for stages, (_, new) in zip(after, codes, strict=True):
            stages.append((names[count - 1], new))
    return [
        GraphStages(graph.path, graph.method, readable(old), [(name, readable(new)) for name, new in stages])
        for graph, (old, _), stages in zip(captured.graphs, codes, after, strict=True)
    ]
