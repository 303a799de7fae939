"""From the options of a loop to its program, and the head of its text."""

from __future__ import annotations

import ast
import dataclasses
import textwrap
from importlib.metadata import version
from typing import TYPE_CHECKING

from ecograph.loop import data, options
from ecograph.loop.layout import INDENT, WIDTH, lay_out
from ecograph.loop.program import Program
from ecograph.loop.values import literal

if TYPE_CHECKING:
    from ecograph.loop.training_loop import TrainingLoop


def build(loop: TrainingLoop) -> Program:
    """Return the program that `loop` asks for: its own options first, then its passes in their order."""
    program = Program(
        loop.epochs,
        amp=loop.amp,
        accumulate=loop.accumulate,
        targets="batch" if loop.batch == "dict" else "targets",
    )
    data.forward(program, loop.batch)
    if loop.amp is not None:
        with program.made_by("amp"):
            options.amp(program, loop.amp)
    if loop.accumulate > 1:
        with program.made_by("accumulate"):
            options.accumulate(program, loop.accumulate)
    if loop.clip is not None:
        with program.made_by("clip"):
            options.clip(program, loop.clip)
    if loop.metric is not None:
        with program.made_by("metric"):
            options.metric(program, loop.metric, loop.batch)
    with program.made_by("lr_step"):
        options.lr_step(program, loop.lr_step)
    if loop.progress:
        with program.made_by("progress"):
            options.progress(program)
    for each in loop.passes:
        with program.made_by(each.name, signed=loop.annotate):
            each.insert(program)
    data.loops(program, loop.batch)
    return program


def head(loop: TrainingLoop) -> str:
    """Return the docstring of the file: what wrote it, from which options, and what its passes are."""
    call = lay_out(ast.unparse(_call(loop)), width=WIDTH - len(INDENT))
    parts = [f"Training loop, written by ecograph {version('ecograph')}.", "Its options:", _indented(call)]
    if loop.passes:
        lines = (f"{each.name}: {each.numerics}; {each.source}" for each in loop.passes)
        parts += ["Its passes:", _indented("\n".join(lines))]
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return textwrap.indent(text.rstrip(), INDENT)


def _call(loop: TrainingLoop) -> ast.Call:
    """Return the call that makes `loop`, with the options that differ from their defaults."""
    call = ast.Call(func=ast.Name(id="TrainingLoop"), args=[], keywords=[])
    for each in dataclasses.fields(loop):
        value = getattr(loop, each.name) if each.init else each.default
        if value != each.default:
            call.keywords.append(ast.keyword(arg=each.name, value=_shown(value)))
    return call


def _shown(value: object) -> ast.expr:
    """Return `value` as an expression to be read; a name, where it cannot be written as source."""
    if isinstance(value, tuple):
        return ast.List(elts=[_shown(each) for each in value], ctx=ast.Load())
    try:
        return literal(value).expression
    except ValueError:
        name = getattr(value, "__name__", None) or getattr(value, "name", None) or type(value).__name__
        return ast.Name(id=name if str(name).isidentifier() else "...", ctx=ast.Load())
