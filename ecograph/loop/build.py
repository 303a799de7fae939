"""From the options of a loop to its program, and the head of its text."""

from __future__ import annotations

import ast
import dataclasses
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ecograph.loop import data, options, options_distributed
from ecograph.loop.layout import INDENT, WIDTH, lay_out
from ecograph.loop.program import Program
from ecograph.loop.stop import Stop
from ecograph.loop.values import literal

if TYPE_CHECKING:
    from ecograph.loop.training_loop import TrainingLoop


def build(loop: TrainingLoop) -> Program:
    """Return the program that `loop` asks for: its own options first, then its passes in their order."""
    program = Program(
        loop.epochs,
        amp=loop.amp,
        accumulate=loop.accumulate,
        distributed=loop.distributed,
        targets="batch" if loop.batch == "dict" else "targets",
        checkpointed=loop.checkpoint is not None,
        validate=_validate(loop.val_every),
        lr_scheduler="ReduceLROnPlateau" if loop.lr_step == "val_loss" else "LRScheduler",
    )
    data.forward(program, loop.batch)
    if loop.distributed is not None:
        with program.made_by("distributed"):
            options_distributed.share_data(program)
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
    if loop.compile:
        with program.made_by("compile"):
            options.compile_model(program)
    if loop.ema is not None:
        with program.made_by("ema"):
            options.ema(program, loop.ema)
    if loop.distributed is not None:
        with program.made_by("distributed"):
            options_distributed.distribute_model(program, ema=loop.ema is not None)
    if loop.callbacks:
        with program.made_by("callbacks"):
            options.callbacks(program, loop.callbacks)
    for each in loop.passes:
        with program.made_by(each.name, signed=loop.annotate):
            each.insert(program)
    if loop.stop is not None:
        with program.made_by("stop"):
            options.stop(program, Stop.parse(loop.stop, program.recorded))
    for path in _several(loop.log):
        with program.made_by("log"):
            options.log(program, str(path))
    if loop.checkpoint is not None:
        with program.made_by("checkpoint"):
            options.checkpoint(program, str(loop.checkpoint), loop.checkpoint_every, _lasting(loop))
    if loop.distributed is not None:
        with program.made_by("distributed"):
            options_distributed.leave(program)
    data.loops(program, loop.batch, checkpointed=loop.checkpoint is not None)
    return program


def _validate(every: int) -> str:
    if every == 1:
        return "val_loader is not None"
    return f"val_loader is not None and ((epoch + 1) % {every} == 0 or epoch + 1 == epochs)"


def _several(paths: str | Path | Sequence[str | Path] | None) -> Sequence[str | Path]:
    return [] if paths is None else [paths] if isinstance(paths, str | Path) else paths


#: Options that may be others when a run is resumed.
_PASSING = ("progress", "annotate", "checkpoint", "checkpoint_every", "log")


def _lasting(loop: TrainingLoop) -> dict[str, object]:
    """Return the options that a run must be resumed with, as they are written in the head of the text."""
    kept = [each for each in _call(loop).keywords if each.arg not in _PASSING]
    return {each.arg: _plain(each.value) for each in kept if each.arg is not None}


def _plain(value: ast.expr) -> object:
    if isinstance(value, ast.List):
        return [_plain(each) for each in value.elts]
    return value.value if isinstance(value, ast.Constant) else ast.unparse(value)


def head(loop: TrainingLoop) -> str:
    """Return the docstring of the file: what wrote it, from which options, and what its passes are."""
    call = lay_out(ast.unparse(_call(loop)), width=WIDTH - len(INDENT))
    parts = [f"Training loop, written by ecograph {version('ecograph')}.", "Its options:", _indented(call)]
    if loop.passes:
        lines = [f"{each.name}: {each.numerics}; {each.source}" for each in loop.passes]
        wrapped = [textwrap.fill(line, WIDTH - len(INDENT), subsequent_indent=INDENT) for line in lines]
        parts += ["Its passes:", _indented("\n".join(wrapped))]
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
