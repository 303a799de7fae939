"""``ecograph inspect``: what the compiler would do to a model, without training it or holding its weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecograph.tools.console import no_effect_noted, note, print_json, stdout
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.passes import find_pass
from ecograph.tools.shared_options import Drop, PassTexts, Schedule, When

if TYPE_CHECKING:
    from ecograph.tools.costing import CostOptions
    from ecograph.tools.inspected import Inspected


def inspect(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, hf:NAME or demo:NAME; or the "
            "training_model.onnx of an export.",
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
    drop: Drop = None,
    schedule: Schedule = None,
    when: When = None,
    recipe: Annotated[
        str | None, typer.Option(help="exact, balanced or aggressive, in place of the options above.")
    ] = None,
    passes: PassTexts = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Print the code of every graph before and after each pass.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print the nodes that passes changed, with the pass at each.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Print what a step takes: time, energy, bytes; by layer, and saved by each pass."),
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Estimate for this device, such as h100. Implies --cost.")
    ] = None,
    amp: Annotated[
        str | None, typer.Option(help="bf16 or fp16: estimate the forward in low precision. Implies --cost.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="adamw (by default), sgd or none, for the estimate. Implies --cost.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the model, its costs and their sources.")
    ] = None,
    dot: Annotated[
        bool, typer.Option("--dot", help="Print the layers and the flow of data as DOT (Graphviz).")
    ] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print the same as Mermaid.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show layer by layer what would be rewritten, or why not, and what it saves.

    The model gets random weights; nothing is downloaded or trained.
    """
    if spec.endswith(".onnx"):
        ignored: dict[str, Any] = {"--input": input, "--recipe": recipe, "--pass": passes, "--html": html}
        ignored |= {"--device": device, "--drop": drop, "--schedule": schedule, "--when": when, "--amp": amp}
        ignored |= {"--optimizer": optimizer, "--graph": graph, "--diff": diff}
        ignored |= {"--cost": cost, "--dot": dot, "--mermaid": mermaid}
        inspect_onnx(Path(spec), [name for name, value in ignored.items() if value], json=json)
        return
    from ecograph.tools.costing import OPTIMIZER, CostOptions
    from ecograph.tools.inputs import parse
    from ecograph.tools.inspected import compile_subject
    from ecograph.tools.shown import Shown, check_file
    from ecograph.tools.spec import find

    options = {"drop": drop, "schedule": schedule, "when": when}
    chosen = choose_passes({k: value for k, value in options.items() if value is not None}, recipe, passes or [])
    given = [parse(text) for text in input or []]
    cost = cost or any(each is not None for each in (device, amp, optimizer))
    costing = CostOptions(device or "auto", amp, optimizer or OPTIMIZER) if cost or html else None
    shown = Shown(graph=graph, diff=diff, cost=cost, dot=dot, mermaid=mermaid, json=json)
    if html is not None:
        check_file(html)
    with no_effect_noted(), redirect_stdout(sys.stderr):  # what the user's code prints is no part of the report
        inspected = compile_subject(find(spec), given, chosen, graph=shown.graphs or html is not None, cost=costing)
    if cost and inspected.estimate is None:
        raise UserError("--cost needs the shapes of the inputs: give --input, such as --input 8x3x32x32")
    shown.show(inspected)
    if html is not None:
        write_page(html, inspected, costing)


def inspect_onnx(path: Path, given: Sequence[str], *, json: bool) -> None:
    """Prints what is in a training graph.

    Raises:
        UserError: for options that are about PyTorch models, and a file that is no graph.
    """
    from ecograph.tools.onnx_graph import read_training_graph

    if given:
        raise UserError(f"{given[0]} is for PyTorch models, and SPEC {str(path)!r} is an ONNX file: leave it out")
    found = read_training_graph(path)
    if json:
        print_json(found.to_dict())
    else:
        stdout().print(found)


def write_page(path: Path, inspected: Inspected, costing: CostOptions | None) -> None:
    """Writes the page, and says so on stderr.

    Raises:
        UserError: where the file cannot be written.
    """
    from ecograph.tools.report.page import page

    text = page(inspected, costing.about() if costing else "")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html {path}: {error.strerror or error}: give a file that can be written") from error
    note(f"wrote {path} ({len(text) / 1e6:.1f} MB): open it in a browser")


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
