"""``ecograph inspect``: what the compiler would do to a model, without training it or holding its weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from ecograph.tools.console import no_effect_noted, note, print_json, stdout
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.passes import find_pass


def inspect(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, hf:NAME or demo:NAME.",
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SHAPE[:DTYPE]",
            help="An example input, such as 8x3x32x32 or input_ids=2x16:int64. May be repeated. "
            "Left out: what the library of the model says; else shapes stay unknown.",
        ),
    ] = None,
    drop: Annotated[float | None, typer.Option(help="Share of output channels dropped.")] = None,
    schedule: Annotated[str | None, typer.Option(help="alternate, constant, linear, cosine or bar.")] = None,
    when: Annotated[
        str | None, typer.Option(help="pays: only layers where it saves time. always: all that can be.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="exact, balanced or aggressive, in place of the options above.")
    ] = None,
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "--pass",
            metavar="NAME[:OPTION=VALUE,...]",
            help="A pass, such as sliceout:rate=0.25, in place of the options above. May be repeated.",
        ),
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the code of every graph before and after each pass.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show layer by layer what would be rewritten, or why not, and what it saves.

    The model gets random weights; nothing is downloaded or trained.
    """
    from ecograph.tools import graph_diff
    from ecograph.tools.inputs import parse
    from ecograph.tools.inspected import compile_subject
    from ecograph.tools.spec import find

    options = {"drop": drop, "schedule": schedule, "when": when}
    chosen = choose_passes({k: value for k, value in options.items() if value is not None}, recipe, passes or [])
    given = [parse(text) for text in input or []]
    with no_effect_noted(), redirect_stdout(sys.stderr):  # what the user's code prints is no part of the report
        inspected = compile_subject(find(spec), given, chosen, graph=graph)
    if json:
        print_json(inspected.to_dict())
        return
    console = stdout()
    console.print(inspected.report)
    console.print(inspected.about(), style="dim", markup=False)
    for part in graph_diff.render(inspected.graphs, colour=console.is_terminal):
        console.print(part, soft_wrap=not console.is_terminal)


def choose_passes(options: dict[str, Any], recipe: str | None, named: Sequence[str] = ()) -> list[Any]:
    """Returns the passes of a recipe, or those that were named, or a sparse backward with the options that were given.

    Raises:
        UserError: for an option out of range, and for more than one of them.
    """
    from ecograph import registry
    from ecograph.optimize import RECIPES
    from ecograph.passes import SparseBackward

    if named:
        other = [f"--{name}" for name in options] + ["--recipe"] * (recipe is not None)
        if other:
            raise UserError(f"--pass and {other[0]} are both given: leave one out")
        return [find_pass(text) for text in named]
    if recipe is None:
        with user_errors():
            return [SparseBackward(**options)]
    if options:
        raise UserError(f"--recipe and --{next(iter(options))} are both given: leave one out")
    if recipe not in RECIPES:
        raise UserError(f"--recipe {recipe!r}: give one of {', '.join(RECIPES)}")
    installed = registry.names()
    missing = [name for name in RECIPES[recipe] if name not in installed]
    if missing:
        note(f"recipe {recipe} goes without {', '.join(missing)}, which is not installed")
    return [registry.find(name)() for name in RECIPES[recipe] if name in installed]
